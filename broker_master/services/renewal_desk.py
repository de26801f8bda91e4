"""Renews certificates of agents, and revokes the replaced ones.

An agent asks over its present connection, so its identity is that of the subject; the request also
proves that it holds the certificate in use. The new one is a candidate until the agent confirms,
over a connection made with it, that it is in use.
"""

import asyncio
from functools import partial
from typing import Final

import msgspec
import structlog

from broker_client.runtime import failpoints
from broker_client.runtime.frames import Msg
from broker_client.runtime.rates import TokenBucket
from broker_master.ca.issuer import Credentials, Issuer
from broker_master.core import certificates
from broker_master.core.budgets import Budgets
from broker_master.core.liveness import Presence
from broker_master.plane import Plane
from broker_master.services.answers import send_answer
from broker_master.services.gate import Gate
from broker_master.services.keys import KeyDesk
from broker_master.services.presence import PresenceService
from broker_master.services.revoke import Revoker
from schemas import codec, subjects
from schemas.faults import MeshError, Refused
from schemas.messages.enrol import EnrolAnswer
from schemas.messages.registry import AgentEntry
from schemas.messages.renewal import Confirmed, RenewalRequest, SelfTest
from schemas.moments import rfc3339
from schemas.spans import DAY_S
from schemas.states import BARRED

log = structlog.get_logger()

_TRIES_PER_S: Final = 1.0
_TRIES_BURST: Final = 5
# Agents of one group confirm within moments of each other: their old keys are refused in one
# update.
_GATHER_S: Final = 0.25
# Interval of looks at unconfirmed candidates; also the wait after a failure.
_LOOK_S: Final = 30.0


class RenewalDesk:
    name = "renewals"

    def __init__(
        self,
        plane: Plane,
        gate: Gate,
        issuer: Issuer,
        keys: KeyDesk,
        revoker: Revoker,
        presence: PresenceService,
        budgets: Budgets,
    ) -> None:
        self._plane = plane
        self._budgets = budgets
        self._gate = gate
        self._issuer = issuer
        self._keys = keys
        self._revoker = revoker
        self._presence = presence
        self._tries: dict[str, TokenBucket] = {}
        self._wake = asyncio.Event()

    async def run(self, ready: asyncio.Event) -> None:
        link = self._plane.link
        link.subscribe(subjects.up("*", "*", "renew"), self._on_question)
        link.subscribe(subjects.up("*", "*", "confirm"), self._on_question)
        link.subscribe(subjects.up("*", "*", "selftest"), self._on_self_test)
        await link.flush()
        ready.set()
        while True:
            try:
                await self._clear_up()
            except MeshError as error:
                # No work is lost: the registry has it at the next turn.
                log.warning("retiring_failed", error=str(error))
            self._wake.clear()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass

    # -- requests

    def _on_question(self, msg: Msg) -> None:
        up = subjects.parse_up(msg.subject)
        if up is None or not msg.reply.startswith(subjects.inbox_prefix(up.agent) + "."):
            self._plane.count("reply_forbidden")
            return
        if not self._has_room(up, msg):
            return
        self._gate.guard(
            up.agent,
            len(msg.data),
            partial(self._begin, up, msg),
            lambda error: send_answer(self._plane, msg.reply, error, up.kind),
        )

    def _has_room(self, up: subjects.Up, msg: Msg) -> bool:
        """Whether the request is within the rate limit; the agent repeats an unanswered one."""
        now_s = self._plane.clock.elapsed()
        has_room = self._budgets.take(up.agent, "rest", len(msg.data), now_s)
        if not has_room:
            self._plane.count("shed", "rate")
        return has_room

    def _begin(self, up: subjects.Up, msg: Msg) -> None:
        try:
            self._plane.spawn(self._serve(up, msg), up.agent)
        except Refused:
            # Too many at once: the agent asks again.
            self._plane.count("renewal", "busy")

    async def _serve(self, up: subjects.Up, msg: Msg) -> None:
        answer: msgspec.Struct | MeshError
        try:
            if up.kind == "renew":
                answer = await self._renew(up, codec.decode(RenewalRequest, msg.data))
            else:
                answer = await self._confirm(up, codec.decode(Confirmed, msg.data))
        except MeshError as error:
            log.warning("renewal_refused", agent=up.agent, step=up.kind, code=error.code)
            self._plane.count("renewal", error.code)
            self._plane.note(
                f"agent.{up.kind}",
                up.agent,
                by=up.agent,
                actor="agent",
                result="refused",
                code=error.code,
                detail=error.message,
            )
            answer = error
        send_answer(self._plane, msg.reply, answer, up.kind)

    def _on_self_test(self, msg: Msg) -> None:
        """The answer goes to the agent's own subject: the path under test."""
        up = subjects.parse_up(msg.subject)
        if up is not None and self._has_room(up, msg):
            answer = partial(self._answer_self_test, up, msg)
            self._gate.guard(up.agent, len(msg.data), answer, lambda _: None)

    def _answer_self_test(self, up: subjects.Up, msg: Msg) -> None:
        try:
            payload = codec.encode(codec.decode(SelfTest, msg.data))
            self._plane.link.publish_nowait(subjects.down(up.group, up.agent, "selftest"), payload)
        except MeshError as error:
            self._plane.count("renewal", error.code)

    # -- a candidate

    async def _renew(self, up: subjects.Up, request: RenewalRequest) -> EnrolAnswer:
        """Sign the new keys; the same keys again get a certificate that replaces the one before."""
        self._count_try(up.agent)
        proved = self._issuer.check_proof("agent", up.agent, request)
        self._check(self._entry(up), proved)
        group = self._group(self._entry(up))
        with self._keys.held(up.agent, request.user_nkey, request.csr_pem):
            issued = self._sign(self._entry(up), request)

            def enter(entry: AgentEntry) -> AgentEntry:
                # Checked again on the registry's state at the moment of writing.
                self._check(entry, proved)
                return self._with_candidate(entry, proved, issued)

            await self._plane.registry.change_agent(up.agent, enter)
        failpoints.reach("master.renewal_signed")
        self._plane.count("renewal", "signed")
        until = f"certificate {issued.serial} until {rfc3339(issued.not_after)}"
        self._plane.note("agent.renew", up.agent, by=up.agent, actor="agent", detail=until)
        log.info("certificate_renewed", agent=up.agent, serial=issued.serial, replaces=proved)
        self._wake.set()
        return EnrolAnswer(
            mesh=self._plane.master.mesh,
            agent=up.agent,
            group=group,
            urls=self._plane.master.urls,
            cert_pem=issued.cert_pem.decode(),
            ca_pem=issued.ca_pem.decode(),
            jwt=issued.jwt,
            serial=issued.serial,
            not_after=issued.not_after,
        )

    def _count_try(self, agent: str) -> None:
        bucket = self._tries.setdefault(agent, TokenBucket(per_s=_TRIES_PER_S, burst=_TRIES_BURST))
        if not bucket.take(self._plane.clock.elapsed()):
            raise Refused("rate_limited", f"agent {agent} renews too often")

    def _entry(self, up: subjects.Up) -> AgentEntry:
        entry = self._plane.registry.agent(up.agent)
        if up.group not in (entry.group, entry.moving_to):
            raise Refused("renewal_refused", f"agent {up.agent} is in group {entry.group}")
        return entry

    def _check(self, entry: AgentEntry, proved: str) -> None:
        if entry.admin in BARRED:
            raise Refused("agent_revoked", f"agent {entry.name} is {entry.admin}")
        if certificates.find_good(entry.certificates, proved, self._plane.clock.now()) is None:
            raise Refused("renewal_refused", f"certificate {proved} is not good any more")

    def _sign(self, entry: AgentEntry, request: RenewalRequest) -> Credentials:
        lifetime_s = self._plane.settings.certificates.agent_days * DAY_S
        return self._issuer.issue(
            "agent",
            entry.name,
            request.csr_pem.encode(),
            request.user_nkey,
            int(self._plane.clock.now() + lifetime_s),
            self._group(entry),
        )

    def _group(self, entry: AgentEntry) -> str:
        """The group of the new certificate: the target of a move, once the agent is empty."""
        is_empty = not self._plane.dispatcher.load(entry.name)
        return entry.moving_to if entry.moving_to and is_empty else entry.group

    def _with_candidate(self, entry: AgentEntry, proved: str, issued: Credentials) -> AgentEntry:
        """Add a candidate, and confirm the certificate whose key signed the request."""
        at = self._plane.clock.now()
        until = at + self._plane.settings.certificates.candidate_s
        candidate = msgspec.structs.replace(issued.entry(at), candidate_until=until)
        confirmed = certificates.with_confirmed(entry.certificates, proved, at)
        return msgspec.structs.replace(
            entry, certificates=certificates.with_candidate(confirmed, candidate, at)
        )

    # -- its confirmation

    async def _confirm(self, up: subjects.Up, wanted: Confirmed) -> Confirmed:
        """Retire all certificates before this one. Idempotent, also for one confirmed long ago."""
        self._check(self._entry(up), wanted.serial)

        def retire(entry: AgentEntry) -> AgentEntry:
            at = self._plane.clock.now()
            self._check(entry, wanted.serial)
            confirmed = certificates.with_confirmed(entry.certificates, wanted.serial, at)
            in_use = next(each for each in confirmed if each.serial == wanted.serial)
            trust = self._issuer.trust_of(in_use) or entry.trust
            return msgspec.structs.replace(entry, certificates=confirmed, trust=trust)

        entry = await self._plane.registry.change_agent(up.agent, retire)
        failpoints.reach("master.renewal_confirmed")
        self._plane.count("renewal", "confirmed")
        detail = f"certificate {wanted.serial} is in use"
        self._plane.note("agent.confirm", up.agent, by=up.agent, actor="agent", detail=detail)
        log.info("certificate_confirmed", agent=up.agent, serial=wanted.serial)
        presence = self._plane.roster.get(up.agent)
        if presence is not None:
            self._presence.note_certificate(presence, entry, wanted.serial)
        self._wake.set()
        return wanted

    # -- replaced certificates

    async def _clear_up(self) -> None:
        """Revoke retired certificates, unconfirmed candidates, and all of barred holders.

        The last kind is left by a master that ended while it revoked.
        """
        at = self._plane.clock.now()
        for name, entry in list(self._plane.registry.agents.items()):
            in_use = _serial_of(self._plane.roster.get(name))
            if certificates.has_late_candidates(entry.certificates, in_use, at):
                await self._withdraw(name)
        known = self._revoker.refused
        registry = self._plane.registry
        found = [
            *((each.certificates, each.admin in BARRED) for each in registry.agents.values()),
            *((each.certificates, each.revoked) for each in registry.clients.values()),
        ]
        refused = [
            each
            for entries, is_barred in found
            for each in certificates.to_be_refused(entries, at, is_barred=is_barred)
            if each.user_nkey not in known
        ]
        if refused:
            await self._revoker.revoke("certificates not good any more", refused)

    async def _withdraw(self, name: str) -> None:
        def withdraw(entry: AgentEntry) -> AgentEntry:
            in_use = _serial_of(self._plane.roster.get(name))
            late = certificates.without_late_candidates(
                entry.certificates, in_use, self._plane.clock.now()
            )
            return msgspec.structs.replace(entry, certificates=late)

        changed = await self._plane.registry.change_agent(name, withdraw)
        self._plane.note("agent.withdraw", name, detail="its renewed certificate was never used")
        log.info("candidate_withdrawn", agent=name, kept=len(changed.certificates))


def _serial_of(presence: Presence | None) -> str:
    return presence.certificate_serial if presence is not None else ""
