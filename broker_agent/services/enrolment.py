"""Enrolment: this host makes keys, the master issues a certificate and a token for them."""

import asyncio
import os
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from broker_agent.store.identity_slots import AgentFacts, IdentitySlots
from broker_client.runtime.clock import Clock
from broker_client.runtime.files import lock_directory, make_private_directory, os_errors
from broker_client.runtime.frames import Msg
from broker_client.runtime.identity import NewIdentity, new_identity
from broker_client.runtime.link import Link, LinkIdentity
from broker_client.runtime.proofs import key_proof
from broker_client.runtime.proxies import unused_proxies
from broker_client.runtime.stdio import tell
from broker_client.runtime.tls import mesh_of
from broker_client.runtime.token import ActivationToken, decode_token
from schemas import codec, subjects
from schemas.addresses import usable
from schemas.answers import raise_fault
from schemas.faults import MeshError, Refused, Unreachable
from schemas.messages.enrol import EnrolAnswer, EnrolRequest

# Timeouts of the whole and of one request: the master signs in milliseconds, but may be restarting.
ENROL_S: Final = 30.0
ANSWER_S: Final = 5.0
RETRY_S: Final = 0.5
DISTRIBUTION: Final = "agent-mesh"


def product_version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"


async def enrol(state_dir: Path, token_text: str, clock: Clock) -> AgentFacts:
    """Use an activation token; on return the state directory holds an identity.

    Idempotent: after a failure the same keys are offered, so a lost answer is given again. Raises
    MeshError: `token_*`, `broker_unreachable`, `no_answer`, `state_*`, and then leaves existing
    state unchanged.
    """
    token = decode_token(token_text)
    if token.expires_at <= clock.now():
        raise Refused("token_expired", f"the token for {token.agent} has expired")
    make_private_directory(state_dir)
    _check_directory(state_dir)
    with lock_directory(state_dir):
        slots = IdentitySlots(state_dir)
        _check_owner(slots, state_dir, token)
        keys, answer = await _certified(token, slots, clock)
        facts = _facts(answer, token, slots)
        slots.complete(
            keys,
            facts,
            cert_pem=answer.cert_pem.encode(),
            ca_pem=answer.ca_pem.encode(),
            jwt=answer.jwt,
        )
        return facts


async def _certified(
    token: ActivationToken, slots: IdentitySlots, clock: Clock
) -> tuple[NewIdentity, EnrolAnswer]:
    """Return keys with their certificate; keys of an earlier try unless the master refuses them."""
    keys = slots.pending()
    if keys is not None:
        try:
            return keys, await redeem(token, keys, clock)
        except Refused as refused:
            if refused.code != "request_invalid":
                raise
    keys = new_identity(token.agent)
    slots.begin(keys)
    return keys, await redeem(token, keys, clock)


def _check_directory(state_dir: Path) -> None:
    """Raise unless the directory is empty or an agent's."""
    with os_errors(state_dir, "read"):
        names = {entry.name for entry in state_dir.iterdir()}
    # Other programs of the mesh may have left a lock.
    if names - {"lock"} and not names & {"identity", "journal.db"}:
        raise Refused("state_foreign", f"{state_dir} holds other files and no agent")


def _check_owner(slots: IdentitySlots, state_dir: Path, token: ActivationToken) -> None:
    facts = slots.facts()
    if facts is None:
        return
    if facts.agent != token.agent:
        raise Refused("state_foreign", f"{state_dir} belongs to agent {facts.agent}")
    if slots.ca_pem().strip() != token.ca_pem.strip():
        raise Refused("state_foreign", f"{state_dir} belongs to mesh {facts.mesh}")


def _facts(answer: EnrolAnswer, token: ActivationToken, slots: IdentitySlots) -> AgentFacts:
    old = slots.facts()
    if answer.agent != token.agent:
        raise Refused("request_invalid", f"the answer is for agent {answer.agent}")
    if old is not None and old.mesh != answer.mesh:
        raise Refused("state_foreign", f"the state belongs to mesh {old.mesh}")
    return AgentFacts(
        agent=answer.agent,
        group=answer.group,
        mesh=answer.mesh,
        urls=usable(answer.urls) or token.urls,
        serial=answer.serial,
        not_after=answer.not_after,
    )


async def redeem(token: ActivationToken, keys: NewIdentity, clock: Clock) -> EnrolAnswer:
    """Request a certificate for `keys` with a token, with retries until a deadline.

    Idempotent: the same keys get the same answer. Raises MeshError: `token_*`,
    `broker_unreachable`, `no_answer`.
    """
    if proxies := unused_proxies(os.environ):
        tell(f"broker-agent: {proxies} not used: the broker is connected to directly\n")
    identity = token.identity()
    bootstrap = LinkIdentity(tls=identity.context, jwt=identity.creds.jwt, seed=identity.creds.seed)
    deadline = clock.elapsed() + ENROL_S
    link = await Link.connect(
        token.urls,
        lambda: bootstrap,
        f"setup {token.agent}",
        subjects.enrol_inbox_prefix(token.agent),
        wait_s=ENROL_S,
    )
    try:
        while True:
            try:
                return await _ask(link, token, keys)
            except MeshError as error:
                is_final = isinstance(error, Refused) and error.retry == "never"
                if is_final or clock.elapsed() >= deadline:
                    raise
            await asyncio.sleep(RETRY_S)
    finally:
        await link.close()


async def _ask(link: Link, token: ActivationToken, keys: NewIdentity) -> EnrolAnswer:
    request = EnrolRequest(
        secret=token.secret,
        csr_pem=keys.csr_pem.decode(),
        user_nkey=keys.user,
        user_signature=key_proof("enrolment", mesh_of(token.ca_pem), token.agent, keys),
        host=socket.gethostname()[:250],
        version=product_version(),
    )
    await link.wait_connected(ANSWER_S)
    msg = await link.request(subjects.enrol(token.agent), codec.encode(request), ANSWER_S)
    return _read(msg)


def _read(msg: Msg) -> EnrolAnswer:
    raise_fault(msg.headers, msg.data)
    if not msg.data:
        raise Unreachable("no_answer", "the master sent an empty answer")
    return codec.decode(EnrolAnswer, msg.data)
