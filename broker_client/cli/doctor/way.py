"""Checks of the connection to the broker, shared by clients and agents."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from broker_client.cli.doctor.findings import Findings, Trouble
from broker_client.cli.doctor.probe import reach, resolve, shake_hands
from broker_client.cli.screen.tables import duration, local_and_utc
from broker_client.runtime.identity import Identity
from broker_client.runtime.link import Link, LinkIdentity
from broker_client.runtime.proxies import unused_proxies
from broker_client.runtime.tls import certificate_facts
from schemas.moments import rfc3339
from schemas.permissions import GROUP, NAME, Scope
from schemas.spans import DAY_S

SOON_S: Final = 14 * DAY_S
# Seconds of clock offset: from the first on a warning, from the second on a failure, as the
# validity of certificates cannot be checked.
CLOCK_OFF_S: Final = 2.0
CLOCK_WRONG_S: Final = 300.0
_FLUSHES: Final = 2


def certificate(cert_pem: bytes, cure: str) -> tuple[str, str]:
    """Check begin and end by this host's clock; a wrong clock looks like a bad certificate."""
    facts = certificate_facts(cert_pem)
    now = time.time()
    until = f"valid until {local_and_utc(rfc3339(facts.not_after))}"
    if now < facts.not_before:
        raise Trouble(
            f"not valid before {local_and_utc(rfc3339(facts.not_before))}",
            f"this host's clock is at least {duration(facts.not_before - now)} behind the mesh's",
            "set the clock: `timedatectl` shows it",
        )
    if now >= facts.not_after:
        ago = duration(now - facts.not_after)
        raise Trouble(f"it ended {ago} ago", "or this host's clock is ahead", cure)
    # A certificate of a few days is renewed in its last third, so the warning comes later.
    if facts.not_after - now < min(SOON_S, (facts.not_after - facts.not_before) / 5):
        left = duration(facts.not_after - now)
        raise Trouble(until, f"it ends in {left}", cure, state="warning")
    return until, facts.serial


def clock_against(said: str) -> tuple[str, float]:
    """Compare the clock of this host with the time in the master's answer."""
    off_s = time.time() - datetime.fromisoformat(said).astimezone(UTC).timestamp()
    found = f"{off_s:+.1f} s off the master's"
    if abs(off_s) > CLOCK_OFF_S:
        raise Trouble(
            found,
            "certificates and deadlines are judged by the time of day",
            "set the clock here or there: `timedatectl` shows it",
            state="failed" if abs(off_s) > CLOCK_WRONG_S else "warning",
        )
    return found, off_s


def reached(
    findings: Findings, urls: Sequence[str], identity: Identity | None, timeout_s: float
) -> list[str]:
    """Check each broker, step by step; returns the reachable ones."""
    if names := unused_proxies(os.environ):
        verb = "are" if "," in names else "is"
        findings.note(
            "proxy",
            "warning",
            f"{names} {verb} set, and not used",
            "connections to a broker go straight to its port, with TLS from end to end",
            "let this host reach the broker's port, or forward a port and name it as an address",
        )
    return [url for url in urls if _is_reached(findings, url, identity, timeout_s)]


def _is_reached(findings: Findings, url: str, identity: Identity | None, timeout_s: float) -> bool:
    host = findings.look(f"address of {url}", resolve, url)
    port = findings.look(f"port of {url}", lambda _: reach(url, timeout_s), host)
    tls = identity.context if identity is not None and port is not None else None
    hands = findings.look(f"TLS with {url}", lambda tls: shake_hands(url, tls, timeout_s), tls)
    return hands is not None


async def permitted(
    link: Link, name: str, scope: Scope, group: str, timeout_s: float
) -> list[tuple[str, str]]:
    """Return permissions of the role that the broker refuses this identity: kind and subject.

    The check has no effect: for a wildcard it publishes to a subject without subscribers; a subject
    without a wildcard is checked by a request instead.
    """
    refused = []
    for subject in scope.subscribe:
        filled = _filled(subject, name, group)
        if await _is_refused(link, partial(link.subscribe, filled, _ignore), timeout_s):
            refused.append(("subscribe to", filled))
    for subject in scope.publish:
        filled = _filled(subject, name, group).removesuffix(">")
        if filled.endswith(".") and await _is_refused(
            link, partial(link.publish_nowait, f"{filled}doctor", b""), timeout_s
        ):
            refused.append(("publish to", f"{filled}doctor"))
    return refused


def _filled(subject: str, name: str, group: str) -> str:
    return subject.replace(NAME, name).replace(GROUP, group)


def _ignore(_msg: object) -> None:
    """Ignore a message: the agent itself receives it, too."""


async def _is_refused(link: Link, act: Callable[[], object], timeout_s: float) -> bool:
    """Whether the broker refuses `act`; its refusal comes before the pong of the next ping."""
    before = link.permission_errors
    act()
    for _ in range(_FLUSHES):
        await link.flush(timeout_s)
    return link.permission_errors > before


async def round_trip_s(link: Link, timeout_s: float) -> float:
    """Return the shortest of three round trips to the broker, in seconds."""
    spent = []
    for _ in range(3):
        began_s = asyncio.get_running_loop().time()
        await link.flush(timeout_s)
        spent.append(asyncio.get_running_loop().time() - began_s)
    return min(spent)


def link_identity(identity: Identity) -> LinkIdentity:
    return LinkIdentity(tls=identity.context, jwt=identity.creds.jwt, seed=identity.creds.seed)
