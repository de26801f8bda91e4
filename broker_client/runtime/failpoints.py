"""Failpoints: named places in the code at which a test kills, stops or delays this process.

    failpoints.reach("master.stored_not_answered")

Without an order in the environment `reach` is a function that does nothing. A process that finds an
order without the variable set by tests refuses to start: a stale variable in a unit file arms
nothing.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from schemas.faults import Refused

ORDERS: Final = "MESH_FAILPOINTS"
ALLOW: Final = "MESH_ALLOW_FAILPOINTS"
ALLOWED: Final = "tests"


class Order(NamedTuple):
    """Effect of a failpoint, each time from the `nth` on. seconds: of a sleep."""

    action: str
    seconds: float = 0.0
    nth: int = 1


def _nothing(_name: str) -> None:
    """Do nothing: `reach` in every process except those of tests."""


reach: Callable[[str], None] = _nothing


def arm(environ: Mapping[str, str]) -> None:
    """Arm the orders of `environ`: `name=kill`, `name=stop` or `name=sleep:SECONDS`.

    Several are separated by `|`; `name=kill@3` means the third time. Raises Refused
    (`settings_invalid`) for orders outside of tests, and for malformed ones.
    """
    global reach  # noqa: PLW0603  (so that an unarmed failpoint costs one empty call)
    text = environ.get(ORDERS, "")
    if not text:
        return
    if environ.get(ALLOW) != ALLOWED:
        raise Refused("settings_invalid", f"{ORDERS} is set: it makes a process fail on purpose")
    reach = _Armed(dict(_parse(part) for part in text.split("|")))


def _parse(part: str) -> tuple[str, Order]:
    name, _, rest = part.strip().partition("=")
    what, _, nth = rest.partition("@")
    action, _, seconds = what.partition(":")
    try:
        order = Order(action, float(seconds or 0), int(nth or 1))
    except ValueError:
        order = Order("")
    if not name or order.action not in {"kill", "stop", "sleep"}:
        raise Refused("settings_invalid", f"{ORDERS}: {part.strip()!a} is no order")
    return name, order


class _Armed:
    """Counts how often each failpoint was reached, and executes its order."""

    def __init__(self, orders: dict[str, Order]) -> None:
        self._orders = orders
        self._reached: dict[str, int] = {}

    def __call__(self, name: str) -> None:
        order = self._orders.get(name)
        if order is None:
            return
        count = self._reached[name] = self._reached.get(name, 0) + 1
        if count < order.nth:
            return
        if order.action == "sleep":
            time.sleep(order.seconds)  # blocks the whole process, as a slow disk does
        else:
            number = signal.SIGKILL if order.action == "kill" else signal.SIGSTOP
            os.kill(os.getpid(), number)
