"""Renews this agent's certificate, broker key and token, without a gap in its connection.

This host makes the new keys, the master signs them, and a second connection tests them; the first
connection is closed after all subscriptions have moved. The old keys are kept until the master has
confirmed the new ones.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
import structlog

from broker_agent.core.renewal_steps import RenewalStep, RenewalSteps
from broker_agent.services.ways import WaysIn, as_link
from broker_agent.services.wire import Station
from broker_agent.store.identity_slots import AgentFacts, IdentitySlots
from broker_client.runtime import failpoints
from broker_client.runtime.files import read_bytes
from broker_client.runtime.frames import Msg
from broker_client.runtime.identity import (
    CERT_FILE,
    KEY_FILE,
    NewIdentity,
    new_identity,
    read_identity,
)
from broker_client.runtime.link import Trial
from broker_client.runtime.proofs import renewal_request
from schemas import addresses, codec, subjects
from schemas.answers import raise_fault
from schemas.faults import MeshError, Refused, Unreachable
from schemas.messages.enrol import EnrolAnswer
from schemas.messages.renewal import Confirmed, SelfTest

M = TypeVar("M", bound=msgspec.Struct)

# Timeout of one request to the master, and number of retries: the master may be restarting.
ANSWER_S: Final = 5.0
ASKED: Final = 3
# Interval of looks at the wall clock, which may be set, and stops during suspend.
LOOK_S: Final = 30.0
# Interval of looks for the end of running tasks, once the certificate has expired.
EXPIRED_LOOK_S: Final = 1.0
# Subjects without subscribers, for a test of the broker's permissions.
PROBED: Final = ("beat", "hello", "report", "renew", "confirm", "reply.token", "log.command")

log = structlog.get_logger(__name__)


class Renewer:
    """Owner of the identity in use. on_change: called after each new certificate or failure.

    on_relocated: called when this agent belongs to another group from its next start on.
    """

    name = "renewer"

    def __init__(
        self,
        station: Station,
        slots: IdentitySlots,
        ways: WaysIn,
        *,
        chance: Callable[[], float],
        on_change: Callable[[], None],
        on_relocated: Callable[[], None],
    ) -> None:
        self._station = station
        self._clock = station.clock
        self._slots = slots
        self._chance = chance
        self._on_change = on_change
        self._on_relocated = on_relocated
        self._wake = asyncio.Event()
        self._ways = ways
        self._link = ways.link
        # Addresses of brokers that a master announced during a step.
        self._offered: tuple[str, ...] = ()
        # Digest of the stored addresses.
        self.addresses = addresses.digest(ways.urls)
        self._is_busy = False
        self.facts = _facts(slots)
        issued_at = slots.identity().claims.issued_at
        self._renewal = RenewalSteps(
            issued_at, self.facts.not_after, chance=chance(), step=_left_at(slots)
        )
        self._link.on_connected(self._on_connected)

    @property
    def failed(self) -> str:
        """Reason why the certificate could not be renewed, or empty."""
        return self._renewal.failed

    @property
    def trouble(self) -> str:
        """Reason and next step for a person on this host, or empty."""
        if self._renewal.has_expired(self._clock.now()):
            return "certificate_expired"
        return f"renewal failed: {self.failed}" if self.failed else ""

    def order(self) -> None:
        """Renew now, by order of the master."""
        self._renewal.order()
        self._on_change()
        self._wake.set()

    def on_new_master(self) -> None:
        """Retry soon a step that the previous master left unanswered."""
        self._renewal.on_reconnected(self._clock.now(), chance=self._chance())
        self._wake.set()

    def learn(self, urls: Sequence[str]) -> None:
        """Store the addresses that the master announces, after a step under way."""
        self._offered = tuple(urls)
        if not self._is_busy:
            self._keep_offered()

    def _keep_offered(self) -> None:
        offered, self._offered = self._offered, ()
        if not offered:
            return
        urls = addresses.learned(offered, self.facts.urls, self._link.connected_url or "")
        try:
            if urls != self.facts.urls:
                self._slots.look_at(urls)
                log.info("addresses_learned", urls=urls)
        except MeshError as error:
            # The present addresses stay in use; the next handshake announces the new ones again.
            log.warning("addresses_not_kept", code=error.code, error=error.message)
            return
        self.addresses = addresses.digest(self._ways.urls or offered)
        self._note_facts()

    def _note_facts(self) -> None:
        before, self.facts = self.facts, _facts(self._slots)
        if self.facts.urls != before.urls:
            self._ways.look_at(self.facts.urls)

    def _on_connected(self) -> None:
        """Take over the identity that the broker has accepted."""
        way = self._ways.take_way()
        if way == self._slots.old:
            log.warning("certificate_given_up", serial=self.facts.serial)
            self._slots.restore_old()
            self._take_over(RenewalStep.REST)
        elif way == self._slots.next and self._slots.candidate() is not None:
            self._slots.promote()
            self._take_over(RenewalStep.CONFIRM)
        self.on_new_master()

    def _take_over(self, step: RenewalStep) -> None:
        """Take over another identity than the expected one."""
        self._note_facts()
        issued_at = self._slots.identity().claims.issued_at
        self._renewal = RenewalSteps(
            issued_at, self.facts.not_after, chance=self._chance(), step=step
        )
        self._on_change()

    # -- the loop

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            self._wake.clear()
            pause_s = self._pause_s()
            if pause_s > 0:
                await self._sleep(pause_s)
            else:
                await self._take_step()
                self._keep_offered()

    async def _sleep(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _pause_s(self) -> float:
        """Seconds until the next step, 0: now. Raises Refused if no step is possible any more."""
        now = self._clock.now()
        if self._renewal.has_expired(now):
            self._check_expired()
            return EXPIRED_LOOK_S
        left_s = min(self._renewal.next_at(), self._renewal.not_after) - now
        if self._link.is_connected:
            return min(LOOK_S, max(0.0, left_s))
        return min(LOOK_S, self._renewal.not_after - now)

    def _check_expired(self) -> None:
        """End this process once no identity can connect any more, so that it can be enrolled again.

        Needs the broker's refusal, not this host's clock alone, and no running tasks.
        """
        if not self._ways.are_all_refused or self._station.book.running:
            return
        agent = self.facts.agent
        raise Refused("certificate_expired", f"the certificate of agent {agent} has expired")

    async def _take_step(self) -> None:
        step = self._renewal.begin()
        self._is_busy = True
        try:
            if step is RenewalStep.ASK:
                await self._ask()
            elif step is RenewalStep.MOVE:
                await self._move()
            else:
                await self._confirm()
        except MeshError as error:
            await self._fail(step, error)
        finally:
            self._is_busy = False

    async def _fail(self, step: RenewalStep, error: MeshError) -> None:
        """Schedule the retry of a failed step; keys that were refused are made again."""
        is_unfit = isinstance(error, Refused) and error.retry == "never"
        is_unfit = is_unfit or (step is RenewalStep.MOVE and isinstance(error, Refused))
        if is_unfit and step is not RenewalStep.CONFIRM:
            await asyncio.to_thread(self._slots.discard_next)
        self._renewal.on_failed(f"{step}: {error}", self._clock.now(), is_unfit=is_unfit)
        log.warning("renewal_failed", step=step, code=error.code, error=error.message)
        self._on_change()

    # -- the steps

    async def _ask(self) -> None:
        keys, answer = await self._certified()
        failpoints.reach("agent.renewal_answered")
        if (answer.agent, answer.mesh) != (self.facts.agent, self.facts.mesh):
            raise Refused("request_invalid", f"the answer is for agent {answer.agent}")
        facts = msgspec.structs.replace(
            self.facts,
            group=answer.group,
            urls=addresses.learned(answer.urls, self.facts.urls, self._link.connected_url or ""),
            serial=answer.serial,
            not_after=answer.not_after,
        )
        await asyncio.to_thread(
            self._slots.hold,
            keys,
            facts,
            cert_pem=answer.cert_pem.encode(),
            ca_pem=answer.ca_pem.encode(),
            jwt=answer.jwt,
        )
        self._renewal.on_answered()
        failpoints.reach("agent.renewal_stored")
        await self._relocate_if_due()

    async def _certified(self) -> tuple[NewIdentity, EnrolAnswer]:
        """Return keys with their certificate; keys of an earlier try unless these are refused."""
        was_kept = self._slots.pending() is not None
        keys, payload = await asyncio.to_thread(self._make_request)
        failpoints.reach("agent.renewal_keys_made")
        try:
            return keys, await self._question("renew", payload, EnrolAnswer)
        except Refused as refused:
            if not was_kept or refused.code != "request_invalid":
                raise
        log.warning("kept_keys_refused", user=keys.user)
        await asyncio.to_thread(self._slots.discard_next)
        keys, payload = await asyncio.to_thread(self._make_request)
        return keys, await self._question("renew", payload, EnrolAnswer)

    async def _relocate_if_due(self) -> None:
        """Notify of a candidate for another group, which only the next start can use."""
        candidate = self._slots.candidate()
        if candidate is None or candidate.group == self.facts.group:
            return
        await asyncio.to_thread(self._slots.promote)
        log.info("relocating", group=candidate.group)
        self._on_relocated()
        await asyncio.Event().wait()

    def _make_request(self) -> tuple[NewIdentity, bytes]:
        keys = self._slots.pending()
        if keys is None:
            keys = new_identity(self.facts.agent)
            self._slots.begin(keys)
        slot = self._slots.in_use()
        request = renewal_request(
            self.facts.agent,
            keys,
            cert_pem=read_bytes(slot / CERT_FILE),
            key_pem=read_bytes(slot / KEY_FILE),
        )
        return keys, codec.encode(request)

    async def _move(self) -> None:
        await self._relocate_if_due()
        identity = await asyncio.to_thread(read_identity, self._slots.next)
        await self._link.renew(as_link(identity), self._test)
        failpoints.reach("agent.renewal_moved")
        await asyncio.to_thread(self._slots.promote)
        self._note_facts()
        self._renewal.on_moved(
            identity.claims.issued_at, self.facts.not_after, chance=self._chance()
        )
        log.info("certificate_in_use", serial=self.facts.serial)
        self._on_change()
        failpoints.reach("agent.renewal_promoted")

    async def _test(self, trial: Trial) -> None:
        """Test the new connection: every subject is permitted, and an echo of the master comes."""
        address = self._station.address
        group, agent = address.group, address.agent
        for kind in PROBED:
            trial.publish_nowait(subjects.up(group, agent, f"{kind}.probe"), b"")
        payload = codec.encode(SelfTest(token=secrets.token_hex(8)))
        with trial.listening(subjects.down(group, agent, "selftest"), payload) as heard:
            trial.publish_nowait(subjects.up(group, agent, "selftest"), payload)
            await trial.flush(ANSWER_S)
            await trial.hears(heard, ANSWER_S)
        failpoints.reach("agent.renewal_tested")

    async def _confirm(self) -> None:
        payload = codec.encode(Confirmed(serial=self.facts.serial))
        await self._question("confirm", payload, Confirmed)
        failpoints.reach("agent.renewal_confirmed")
        await asyncio.to_thread(self._slots.drop_old)
        self._renewal.on_confirmed()
        log.info("certificate_confirmed", serial=self.facts.serial)
        self._on_change()

    async def _question(self, kind: str, payload: bytes, answer: type[M]) -> M:
        """Request an answer of the master, with retries; requests are idempotent."""
        address = self._station.address
        subject = subjects.up(address.group, address.agent, kind)
        for turn in range(ASKED):
            try:
                return _read(await self._link.request(subject, payload, ANSWER_S), answer)
            except Unreachable:
                if turn == ASKED - 1:
                    raise
                await asyncio.sleep(self._chance())
        raise Unreachable("no_answer", f"no answer to {kind}")


def _facts(slots: IdentitySlots) -> AgentFacts:
    facts = slots.facts()
    if facts is None:
        raise Refused("state_missing", "there is no identity any more")
    return facts


def _left_at(slots: IdentitySlots) -> RenewalStep:
    if slots.candidate() is not None:
        return RenewalStep.MOVE
    if slots.is_unconfirmed:
        return RenewalStep.CONFIRM
    return RenewalStep.ASK if slots.pending() is not None else RenewalStep.REST


def _read(msg: Msg, kind: type[M]) -> M:
    raise_fault(msg.headers, msg.data)
    return codec.decode(kind, msg.data)
