"""Enrols a new agent, once, for an operator's token."""

import asyncio

import msgspec
import structlog

from broker_client.runtime.frames import Msg
from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.tls import trust_digest
from broker_master.ca.issuer import Credentials, Issuer
from broker_master.ca.tokens import is_secret
from broker_master.plane import Plane
from broker_master.services.answers import send_answer
from broker_master.services.keys import NOT_PROVED, KeyDesk
from schemas import codec, subjects
from schemas.faults import MeshError, Refused
from schemas.messages.enrol import EnrolAnswer, EnrolRequest
from schemas.messages.registry import AgentEntry
from schemas.moments import rfc3339
from schemas.spans import DAY_S
from schemas.states import BARRED

log = structlog.get_logger()

# Wrong secrets per agent: guessing 32 bytes is hopeless, but must not cost the master time.
_TRIES_PER_S = 5 / 60
_TRIES_BURST = 5
# Requests of any kind per agent: setup retries every few seconds at most.
_ASKS_PER_S = 1.0
_ASKS_BURST = 64


class Enrolment:
    name = "enrolment"

    def __init__(self, plane: Plane, issuer: Issuer, keys: KeyDesk) -> None:
        self._plane = plane
        self._issuer = issuer
        self._keys = keys
        self._wrong: dict[str, TokenBucket] = {}
        self._asks: dict[str, TokenBucket] = {}

    async def run(self, ready: asyncio.Event) -> None:
        self._plane.link.subscribe(subjects.ENROL_ALL, self._on_request)
        await self._plane.link.flush()
        ready.set()
        await asyncio.Event().wait()

    def _on_request(self, msg: Msg) -> None:
        agent = subjects.parse_enrol(msg.subject)
        if agent is None or not msg.reply.startswith(subjects.enrol_inbox_prefix(agent) + "."):
            self._plane.count("reply_forbidden")
            return
        if not self._admits(agent):
            # Not decoded and not noted, whatever its token: the agent asks again.
            self._plane.count("enrolment", "busy")
            return
        try:
            self._plane.spawn(self._serve(agent, msg), agent)
        except Refused:
            # Too many at once: the agent asks again.
            self._plane.count("enrolment", "busy")

    def _admits(self, agent: str) -> bool:
        """Whether a request is within the rate limit; all unknown names share one."""
        agents = self._plane.registry.agents
        key = agent if agent in agents else ""
        bucket = self._asks.get(key)
        if bucket is None:
            if len(self._asks) > len(agents):
                self._asks = {name: each for name, each in self._asks.items() if name in agents}
            bucket = TokenBucket(per_s=_ASKS_PER_S, burst=_ASKS_BURST)
            self._asks[key] = bucket
        return bucket.take(self._plane.clock.elapsed())

    async def _serve(self, agent: str, msg: Msg) -> None:
        try:
            request = codec.decode(EnrolRequest, msg.data)
            answer = await self._enrol(agent, request)
        except MeshError as error:
            self._plane.count("enrolment", error.code)
            log.warning("enrolment_refused", agent=agent, code=error.code)
            self._plane.note(
                "agent.enrol",
                agent,
                by=agent,
                actor="token",
                result="refused",
                code=error.code,
                detail=error.message,
            )
            send_answer(self._plane, msg.reply, error, "enrol")
            return
        self._plane.count("enrolment", "done")
        log.info("agent_enrolled", agent=agent, serial=answer.serial)
        until = f"certificate {answer.serial} until {rfc3339(answer.not_after)}"
        detail = until if request.user_signature else f"{until}; {NOT_PROVED}"
        self._plane.note("agent.enrol", agent, by=agent, actor="token", detail=detail)
        send_answer(self._plane, msg.reply, answer, "enrol")

    async def _enrol(self, agent: str, request: EnrolRequest) -> EnrolAnswer:
        """Spend the token; of concurrent requests exactly one wins, by the registry's revision.

        The winner may repeat the request with the same keys, since an answer can get lost.
        """
        entry = self._plane.registry.agents.get(agent)
        self._check(agent, entry, request)
        csr_pem, user, proof = request.csr_pem, request.user_nkey, request.user_signature
        _ = self._issuer.check_key("enrolment", agent, csr_pem, user, proof)
        with self._keys.held(agent, request.user_nkey, request.csr_pem):
            issued = self._sign(self._plane.registry.agent(agent), request)

            def spend(current: AgentEntry) -> AgentEntry:
                # Checked again on the registry's state at the moment of writing.
                self._check(agent, current, request)
                return _spent(current, request, issued, self._plane.clock.now())

            spent = await self._plane.registry.change_agent(agent, spend)
        return EnrolAnswer(
            mesh=self._plane.master.mesh,
            agent=agent,
            group=spent.group,
            urls=self._plane.master.urls,
            cert_pem=issued.cert_pem.decode(),
            ca_pem=issued.ca_pem.decode(),
            jwt=issued.jwt,
            serial=issued.serial,
            not_after=issued.not_after,
        )

    def _check(self, agent: str, entry: AgentEntry | None, request: EnrolRequest) -> None:
        token = entry.token if entry is not None else None
        if entry is None or token is None or entry.admin in BARRED:
            raise Refused("token_invalid", f"no token is open for agent {agent}")
        if not is_secret(request.secret, token.hash):
            self._count_wrong(agent)
            raise Refused("token_invalid", f"not the token of agent {agent}")
        if token.used_key and token.used_key != request.user_nkey:
            raise Refused("token_used", f"the token of agent {agent} has been used")
        if token.expires_at <= self._plane.clock.now():
            raise Refused("token_expired", f"the token of agent {agent} has expired")

    def _count_wrong(self, agent: str) -> None:
        bucket = self._wrong.setdefault(agent, TokenBucket(per_s=_TRIES_PER_S, burst=_TRIES_BURST))
        if not bucket.take(self._plane.clock.elapsed()):
            raise Refused("rate_limited", f"too many wrong tokens for agent {agent}")

    def _sign(self, entry: AgentEntry, request: EnrolRequest) -> Credentials:
        lifetime_s = self._plane.settings.certificates.agent_days * DAY_S
        return self._issuer.issue(
            "agent",
            entry.name,
            request.csr_pem.encode(),
            request.user_nkey,
            int(self._plane.clock.now() + lifetime_s),
            entry.group,
        )


def _spent(entry: AgentEntry, request: EnrolRequest, issued: Credentials, at: float) -> AgentEntry:
    assert entry.token is not None  # noqa: S101 - checked by the caller
    certificate = issued.entry(at)
    # Valid certificates stay known, or a later revocation would leave them out.
    kept = [
        each
        for each in entry.certificates
        if each.not_after > at and each.user_nkey != certificate.user_nkey
    ]
    return msgspec.structs.replace(
        entry,
        token=msgspec.structs.replace(entry.token, used_key=request.user_nkey),
        certificates=[*kept, certificate],
        trust=trust_digest(issued.ca_pem),
    )
