"""One request to the master and its typed answer, or its fault."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from broker_client.runtime import tracing
from broker_client.runtime.backoff import Backoff
from broker_client.runtime.link import Link, Msg, NoResponders, Unanswered
from schemas import codec, subjects
from schemas.answers import ERROR_CODE_HEADER, ERROR_HEADER
from schemas.faults import FAULTS, Expired, FaultBody, MeshError, Refused, Unreachable
from schemas.permissions import CLIENT_ROLES, may_call
from schemas.verbs import (
    COMMAND_RETRY,
    DEADLETTER_RETRY,
    FANOUT_RETRY,
    FANOUT_SUBMIT,
    VERBS,
    Verb,
)

M = TypeVar("M")
Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)

ANSWER_S: Final = 10.0
# Seconds without any answer after which a wait is given up; a broker elects a leader in 5.4 s and a
# master restarts in less than this.
OUTAGE_S: Final = 60.0
RETRY_FIRST_S: Final = 0.1
RETRY_CAP_S: Final = 2.0
UNPROVED: Final = "connection_unproved"
_UNPROVED_TRIES: Final = 5

# Advice if the broker answers, but no master does.
NO_MASTER: Final = (
    "start the master: broker-master serve --state-dir D; if it runs, see `mesh doctor`, its log"
    " and whether its /readyz answers 200"
)
# Where to look if a master is there, and does not answer.
_LOOK: Final = "see `mesh doctor`, and the master's log and /readyz"
# Least seconds of a try that the end of all tries cuts short.
_LAST_TRY_S: Final = 0.5
_PASSING: Final = frozenset({"master_starting", "store_unavailable", UNPROVED})

# Changes under an id of the caller's choice, which are safe to ask for again.
_WITH_OWN_ID: Final = frozenset(
    verb.name for verb in (COMMAND_RETRY, DEADLETTER_RETRY, FANOUT_RETRY, FANOUT_SUBMIT)
)

_FAMILIES: Final[dict[str, type[MeshError]]] = {
    "no_answer": Unreachable,
    "broker_unreachable": Unreachable,
    "wait_timeout": Expired,
    "deadline_passed": Expired,
}


class Asker:
    """Sends the requests of one client.

    on_heard: called with each answer of a master. on_absent: called when no master listens.
    """

    def __init__(self, link: Link, name: str, role: str, *, answer_s: float = ANSWER_S) -> None:
        self.link = link
        self.name = name
        self.role = role
        self.answer_s = answer_s
        self.on_heard: list[Callable[[], object]] = []
        self.on_absent: list[Callable[[], object]] = []
        self._ends_s: list[float] = []

    @property
    def until_s(self) -> float | None:
        """Reading of the loop's clock at which the last request is given up; None without one."""
        return max(self._ends_s, default=None)

    @contextlib.contextmanager
    def trying(self, for_s: float) -> Iterator[float]:
        """Note tries that last at most `for_s`; yields the loop's time of their end."""
        end_s = asyncio.get_running_loop().time() + for_s
        self._ends_s.append(end_s)
        try:
            yield end_s
        finally:
            self._ends_s.remove(end_s)

    async def ask(
        self, verb: Verb[Q, A], request: Q, *, wait_s: float = 0.0, end_s: float | None = None
    ) -> A:
        """Return the answer to `request`, of the verb's type; see `ask_named`."""
        return await self.ask_named(
            verb.noun, verb.verb, request, verb.answer, wait_s=wait_s, end_s=end_s
        )

    async def ask_named(
        self,
        noun: str,
        verb: str,
        request: msgspec.Struct,
        kind: type[M],
        *,
        wait_s: float = 0.0,
        end_s: float | None = None,
    ) -> M:
        """Send `request` to `noun.verb`, also one of a newer mesh, and decode a `kind`.

        wait_s: seconds that the master itself may wait before it answers, on top of `answer_s`.
        end_s: the loop's time at which a longer wait ends. Raises the master's fault as a MeshError
        of its code; Refused (`forbidden`) without a request if the role may not call the verb;
        Unreachable (`no_answer`), with an unknown effect unless the error says otherwise.
        """
        payload = codec.encode_request(request)
        timeout_s = self.answer_s + wait_s
        if end_s is not None:
            left_s = end_s - asyncio.get_running_loop().time()
            timeout_s = min(timeout_s, max(_LAST_TRY_S, left_s))
        tries = 0
        with self.trying(timeout_s):
            while True:
                tries += 1
                msg = await self.send(noun, verb, payload, timeout_s)
                fault = fault_of(msg) if msg.raw_headers else None
                if fault is None:
                    return codec.decode_trusted(kind, msg.data)
                if fault.code != UNPROVED or tries >= _UNPROVED_TRIES:
                    raise fault
                # No master has seen the request: a connection with this name was just cut.
                await asyncio.sleep(RETRY_FIRST_S)

    async def ask_until_answered(self, verb: Verb[Q, A], request: Q, *, wait_s: float = 0.0) -> A:
        """As `ask`, for idempotent requests: retried while there is no answer.

        Raises the last fault after `OUTAGE_S` without an answer.
        """
        return await self.ask_for(OUTAGE_S + wait_s, verb, request, wait_s=wait_s)

    async def ask_for(
        self, for_s: float, verb: Verb[Q, A], request: Q, *, wait_s: float = 0.0
    ) -> A:
        """As `ask_until_answered`, with the fault raised after `for_s`."""
        # A short bound: a broker without a master refuses at once, and each refusal doubles it.
        backoff = Backoff(random.random, first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S)
        with self.trying(for_s) as end_s:
            while True:
                try:
                    return await self.ask(verb, request, wait_s=wait_s, end_s=end_s)
                except MeshError as error:
                    late = asyncio.get_running_loop().time() >= end_s
                    if late or not is_passing(error):
                        raise
                await asyncio.sleep(backoff.next_s())

    async def send(self, noun: str, verb: str, payload: bytes, timeout_s: float) -> Msg:
        """Send a request as it is on the wire; returns the answer, which may hold a fault."""
        if self.role in CLIENT_ROLES and not may_call(self.role, noun, verb):
            raise Refused("forbidden", f"role {self.role} of {self.name} may not {noun}.{verb}")
        subject = subjects.api(self.name, noun, verb)
        try:
            msg = await self.link.request(subject, payload, timeout_s, tracing.headers())
        except NoResponders as error:
            _tell(self.on_absent)
            raise Unreachable(
                "no_answer", "no master is listening", effect="none", advice=NO_MASTER
            ) from error
        except Unreachable as error:
            refused = self.link.last_permission_error
            if error.code == "no_answer" and refused and subject in refused:
                raise Refused(
                    "forbidden", f"the broker does not let {self.name} do {noun}.{verb}"
                ) from error
            if error.code != "no_answer":
                raise
            said = f"no answer to {noun} {verb} in {timeout_s:.0f} s"
            message = said if isinstance(error, Unanswered) else error.message
            raise Unreachable(
                "no_answer", message, advice=advice_without_answer(f"{noun}.{verb}")
            ) from error
        _tell(self.on_heard)
        return msg


def _tell(listeners: list[Callable[[], object]]) -> None:
    for listener in listeners:
        listener()


def advice_without_answer(name: str) -> str:
    """Return what to do after a request of the verb `name` had no answer."""
    verb = VERBS.get(name)
    if verb is None or verb.is_recorded or name in _WITH_OWN_ID:
        return f"it may have been taken in: look, or ask again with the same id; {_LOOK}"
    if verb.changes:
        return f"it may have been done: look before you ask again; {_LOOK}"
    return f"ask again; if that does not help, {_LOOK}"


def is_passing(error: MeshError) -> bool:
    """Whether a plain retry may help: there was no answer, or the master is starting."""
    return isinstance(error, Unreachable) or error.code in _PASSING


def fault_of(msg: Msg) -> MeshError | None:
    """Return the fault in the headers and body of a service answer; None if there is none."""
    headers = msg.headers
    if ERROR_CODE_HEADER not in headers and ERROR_HEADER not in headers:
        return None
    try:
        body = codec.decode(FaultBody, msg.data)
    except Refused:
        said = headers.get(ERROR_HEADER, "")[:200]
        number = headers.get(ERROR_CODE_HEADER, "")[:3]
        return Refused("internal", f"error {number}: {said or 'no reason given'}")
    family = _FAMILIES.get(body.code, Refused)
    if body.code not in FAULTS:
        # A fault of a newer master: its own code goes into the text.
        return family("internal", f"{body.message} ({body.code})")
    return family(body.code, body.message)
