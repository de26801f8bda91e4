"""One request to the master and its typed answer, or its fault."""

import asyncio
import random
from typing import Final, TypeVar

import msgspec

from broker_client.runtime import tracing
from broker_client.runtime.backoff import Backoff
from broker_client.runtime.link import Link, Msg, NoResponders
from schemas import codec, subjects
from schemas.answers import ERROR_CODE_HEADER, ERROR_HEADER
from schemas.faults import FAULTS, Expired, FaultBody, MeshError, Refused, Unreachable
from schemas.permissions import CLIENT_ROLES, may_call
from schemas.verbs import Verb

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
    "start the master: broker-master serve --state-dir D; if it runs, see its log and whether"
    " its /readyz answers 200"
)
_PASSING: Final = frozenset({"master_starting", "store_unavailable", UNPROVED})

_FAMILIES: Final[dict[str, type[MeshError]]] = {
    "no_answer": Unreachable,
    "broker_unreachable": Unreachable,
    "wait_timeout": Expired,
    "deadline_passed": Expired,
}


class Asker:
    """Sends the requests of one client. Holds no state except the link and the name."""

    def __init__(self, link: Link, name: str, role: str, *, answer_s: float = ANSWER_S) -> None:
        self.link = link
        self.name = name
        self.role = role
        self.answer_s = answer_s

    async def ask(self, verb: Verb[Q, A], request: Q, *, wait_s: float = 0.0) -> A:
        """Return the answer to `request`, of the verb's type; see `ask_named`."""
        return await self.ask_named(verb.noun, verb.verb, request, verb.answer, wait_s=wait_s)

    async def ask_named(
        self, noun: str, verb: str, request: msgspec.Struct, kind: type[M], *, wait_s: float = 0.0
    ) -> M:
        """Send `request` to `noun.verb`, also one of a newer mesh, and decode a `kind`.

        wait_s: seconds that the master itself may wait before it answers, on top of `answer_s`.
        Raises the master's fault as a MeshError of its code; Refused (`forbidden`) without a
        request if the role may not call the verb; Unreachable (`no_answer`), with an unknown effect
        unless the error says otherwise.
        """
        payload = codec.encode_request(request)
        tries = 0
        while True:
            tries += 1
            msg = await self._send(noun, verb, payload, self.answer_s + wait_s)
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
        backoff = Backoff(random.random, first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S)
        give_up_at = asyncio.get_running_loop().time() + OUTAGE_S + wait_s
        while True:
            try:
                return await self.ask(verb, request, wait_s=wait_s)
            except MeshError as error:
                late = asyncio.get_running_loop().time() >= give_up_at
                if late or not is_passing(error):
                    raise
            await asyncio.sleep(backoff.next_s())

    async def _send(self, noun: str, verb: str, payload: bytes, timeout_s: float) -> Msg:
        if self.role in CLIENT_ROLES and not may_call(self.role, noun, verb):
            raise Refused("forbidden", f"role {self.role} of {self.name} may not {noun}.{verb}")
        subject = subjects.api(self.name, noun, verb)
        try:
            return await self.link.request(subject, payload, timeout_s, tracing.headers())
        except NoResponders as error:
            raise Unreachable(
                "no_answer", "no master is listening", effect="none", advice=NO_MASTER
            ) from error
        except Unreachable as error:
            refused = self.link.last_permission_error
            if error.code == "no_answer" and refused and subject in refused:
                raise Refused(
                    "forbidden", f"the broker does not let {self.name} do {noun}.{verb}"
                ) from error
            raise


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
