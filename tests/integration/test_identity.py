"""The broker itself refuses certificates, tokens and subjects: shown with the stock client."""

import asyncio
import dataclasses
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker_client.runtime.identity import new_identity
from broker_client.runtime.nkeys import KeyPair
from broker_client.runtime.tls import client_context_of
from broker_master.ca.authority import Authority
from broker_master.ca.claims import Claims, encode_jwt
from schemas import limits
from schemas.permissions import CLIENT_ROLES, may_call
from tests.servers import MeshBroker, TestCredentials, connect_raw, mesh_broker
from tests.waiting import eventually

pytestmark = pytest.mark.integration

SEEN_S = 60.0


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[MeshBroker]:
    async with mesh_broker(tmp_path) as running:
        yield running


async def refusal(credentials: TestCredentials, **options: Any) -> str:  # noqa: ANN401  nats.connect's
    """Why these credentials cannot connect; empty if they can."""
    said: list[str] = []

    async def note(error: Exception) -> None:
        said.append(repr(error))

    try:
        connection = await connect_raw(credentials, error_cb=note, **options)
    except Exception as error:  # noqa: BLE001  whatever the client makes of a refusal
        return f"{error!r} {said}"
    await connection.close()
    return ""


async def logged(broker: MeshBroker, words: str) -> None:
    """Wait until the broker has logged `words`; it does so after the client has seen the end."""
    log = broker.broker.log_file
    await eventually(lambda: words in log.read_text(), SEEN_S, what=f"log: {words}")


class Watched:
    """A stock connection that keeps what it was told: errors, messages, its end."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.received: list[str] = []
        self.closed = asyncio.Event()
        self.client: Client

    @classmethod
    async def connect(cls, credentials: TestCredentials) -> "Watched":
        self = cls()
        self.client = await connect_raw(
            credentials, error_cb=self._on_error, closed_cb=self._on_closed
        )
        return self

    async def is_publish_refused(self, subject: str, payload: bytes = b"") -> bool:
        """The broker answers a forbidden publish before the ping that follows it."""
        self.errors.clear()
        await self.client.publish(subject, payload)
        await self.fence()
        return any("permissions violation for publish" in error for error in self.errors)

    async def is_subscribe_refused(self, subject: str) -> bool:
        self.errors.clear()
        await self.client.subscribe(subject, cb=self.on_message)
        await self.fence()
        return any("permissions violation for subscription" in error for error in self.errors)

    async def fence(self) -> None:
        """Return when the broker has answered all that was sent before.

        The stock client writes a flush's ping ahead of what it has buffered, so it takes two.
        """
        await self.client.flush()
        await self.client.flush()

    async def on_message(self, message: Msg) -> None:
        self.received.append(message.subject)

    async def wait_received(self, subject: str) -> None:
        await eventually(lambda: subject in self.received, SEEN_S, what=f"message: {subject}")

    async def _on_error(self, error: Exception) -> None:
        self.errors.append(str(error).lower())

    async def _on_closed(self) -> None:
        self.closed.set()


@pytest.fixture
async def master(broker: MeshBroker) -> AsyncIterator[Watched]:
    """A master that hears everything in the account."""
    watched = await Watched.connect(broker.issue("master", "master-1"))
    await watched.client.subscribe(">", cb=watched.on_message)
    await watched.fence()
    yield watched
    await watched.client.close()


async def publish_all(watched: Watched, subjects: Iterable[str]) -> list[str]:
    """Return the subjects that the broker let through."""
    return [subject for subject in subjects if not await watched.is_publish_refused(subject)]


# --- certificates and tokens --------------------------------------------------------------------


async def test_certificate_token_and_seed_together_connect(broker: MeshBroker) -> None:
    assert await refusal(broker.issue("agent", "web-1", "web")) == ""


async def test_without_a_client_certificate_nobody_connects(broker: MeshBroker) -> None:
    valid = broker.issue("agent", "web-1", "web")
    bare = ssl.create_default_context(cafile=str(valid.folder / "ca.pem"))
    assert await refusal(dataclasses.replace(valid, context=bare))
    await logged(broker, "client didn't provide a certificate")


async def test_certificate_of_a_foreign_authority_with_the_same_name_is_refused(
    broker: MeshBroker,
) -> None:
    valid = broker.issue("agent", "web-1", "web")
    now = int(time.time())
    foreign = Authority.create(broker.mesh.id, now=now)
    keys = new_identity("web-1")
    cert = foreign.sign_client(
        keys.csr_pem, "agent", "web-1", not_before=now - 60, not_after=now + 600
    )
    context = client_context_of(broker.mesh.authority.ca_pem, cert, keys.key_pem)
    assert await refusal(dataclasses.replace(valid, context=context))
    await logged(broker, "certificate signed by unknown authority")


async def test_client_refuses_a_broker_of_a_foreign_authority(broker: MeshBroker) -> None:
    valid = broker.issue("agent", "web-1", "web")
    foreign = Authority.create(broker.mesh.id, now=int(time.time()))
    context = client_context_of(
        foreign.ca_pem,
        (valid.folder / "cert.pem").read_bytes(),
        (valid.folder / "key.pem").read_bytes(),
    )
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(dataclasses.replace(valid, context=context))


async def test_token_without_its_seed_is_refused(broker: MeshBroker) -> None:
    valid = broker.issue("agent", "web-1", "web")
    stolen = dataclasses.replace(valid, seed=KeyPair.create("user").seed)
    assert "Authorization Violation" in await refusal(stolen)


async def test_certificate_without_a_token_is_refused(broker: MeshBroker) -> None:
    valid = broker.issue("agent", "web-1", "web")
    assert "Authorization Violation" in await refusal(valid, user_jwt_cb=None, signature_cb=None)


@pytest.mark.parametrize(
    "kept",
    [
        ("certificate",),
        ("token",),
        ("seed",),
        ("certificate", "token"),
        ("certificate", "seed"),
        ("token", "seed"),
    ],
)
async def test_sec_s02_no_part_of_an_identity_is_enough(
    broker: MeshBroker, kept: tuple[str, ...]
) -> None:
    """A thief of these parts fills in the rest with parts that he can make himself."""
    stolen = broker.issue("agent", "web-1", "web")
    bare = ssl.create_default_context(cafile=str(stolen.folder / "ca.pem"))
    now, keys = int(time.time()), new_identity("web-1")
    foreign = Authority.create(broker.mesh.id, now=now)
    cert = foreign.sign_client(
        keys.csr_pem, "agent", "web-1", not_before=now - 60, not_after=now + 600
    )
    own_context = client_context_of(broker.mesh.authority.ca_pem, cert, keys.key_pem)
    for context in (own_context, bare):
        mixed = dataclasses.replace(
            stolen,
            context=stolen.context if "certificate" in kept else context,
            jwt=stolen.jwt if "token" in kept else _self_signed(stolen),
            seed=stolen.seed if "seed" in kept else KeyPair.create("user").seed,
        )
        assert await refusal(mixed)
    assert await refusal(stolen) == "", "all three together are an identity"


def _self_signed(stolen: TestCredentials) -> str:
    claims = user_claims(stolen, issuer_account=KeyPair.create("account").public)
    return encode_jwt(claims, KeyPair.create("account"), issued_at=int(time.time()))


async def test_sec_s24_expired_certificate_and_expired_token_are_each_refused(
    broker: MeshBroker,
) -> None:
    valid = broker.issue("agent", "web-1", "web")
    expired = broker.issue("agent", "web-1", "web", lifetime_s=-1)
    assert "Authorization Violation" in await refusal(
        dataclasses.replace(expired, context=valid.context)
    )
    assert await refusal(dataclasses.replace(valid, context=expired.context))
    await logged(broker, "certificate has expired or is not yet valid")


async def test_sec_s24_certificate_and_token_of_tomorrow_are_each_refused(
    broker: MeshBroker,
) -> None:
    valid = broker.issue("agent", "web-1", "web")
    early = broker.issue("agent", "web-1", "web", not_before=int(time.time()) + 600)
    assert "Authorization Violation" in await refusal(
        dataclasses.replace(early, context=valid.context)
    )
    assert await refusal(dataclasses.replace(valid, context=early.context))
    await logged(broker, "certificate has expired or is not yet valid")


async def test_sec_s24_connection_ends_when_its_token_does(broker: MeshBroker) -> None:
    credentials = broker.issue("agent", "web-1", "web", lifetime_s=2)
    watched = await Watched.connect(credentials)
    other = await Watched.connect(broker.issue("agent", "web-2", "web"))
    async with asyncio.timeout(2 + SEEN_S):
        await watched.closed.wait()
    assert time.time() >= credentials.not_after
    await other.fence()
    await other.client.close()


async def test_sec_s26_plain_text_is_not_spoken(broker: MeshBroker) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.broker.port)
    assert b'"tls_required":true' in await reader.readline()
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    async with asyncio.timeout(SEEN_S):
        answer = await reader.read()
    assert b"PONG" not in answer
    writer.close()


# --- keys of the issuer -------------------------------------------------------------------------


def user_claims(credentials: TestCredentials, **part: object) -> Claims:
    now = int(time.time())
    return {
        "sub": credentials.user,
        "name": credentials.name,
        "exp": now + 600,
        "nats": {"type": "user", "version": 2, **part},
    }


async def test_stolen_scoped_key_cannot_grant_permissions_of_its_own(broker: MeshBroker) -> None:
    accounts = broker.mesh.accounts
    valid = broker.issue("agent", "web-1", "web")
    own = {
        "issuer_account": accounts.account,
        "tags": ["group:web"],
        "subs": -1,
        "data": -1,
        "payload": -1,
        "pub": {"allow": [">"]},
        "sub": {"allow": [">"]},
    }
    jwt = encode_jwt(
        user_claims(valid, **own), accounts.signing_key("agent"), issued_at=int(time.time())
    )
    assert "Authorization Violation" in await refusal(dataclasses.replace(valid, jwt=jwt))


async def test_keys_of_account_operator_and_strangers_sign_no_users(broker: MeshBroker) -> None:
    """Masters need neither root key, so those may be kept off the machine."""
    valid = broker.issue("agent", "web-1", "web")
    folder = broker.directory / "nats"
    names = ("account", "operator", "operator-signing", "system", "system-signing")
    signers = [KeyPair.from_seed((folder / f"{name}.nk").read_text().strip()) for name in names]
    part = {"issuer_account": broker.mesh.accounts.account, "subs": -1, "data": -1, "payload": -1}
    for signer in (*signers, KeyPair.create("account")):
        jwt = encode_jwt(user_claims(valid, **part), signer, issued_at=int(time.time()))
        assert "Authorization Violation" in await refusal(dataclasses.replace(valid, jwt=jwt))


async def test_master_key_makes_no_system_user(broker: MeshBroker) -> None:
    accounts = broker.mesh.accounts
    valid = broker.issue("master", "master-1")
    part = {"issuer_account": accounts.system_account, "subs": -1, "data": -1, "payload": -1}
    key = accounts.signing_key("master")
    jwt = encode_jwt(user_claims(valid, **part), key, issued_at=int(time.time()))
    assert "Authorization Violation" in await refusal(dataclasses.replace(valid, jwt=jwt))


async def test_bearer_token_is_refused(broker: MeshBroker) -> None:
    """A token that asks for no signature is worth no more than the text of it."""
    accounts = broker.mesh.accounts
    valid = broker.issue("master", "master-1")
    part = {
        "issuer_account": accounts.account,
        "subs": -1,
        "data": -1,
        "payload": -1,
        "bearer_token": True,
    }
    key = accounts.signing_key("master")
    jwt = encode_jwt(user_claims(valid, **part), key, issued_at=int(time.time()))
    assert await refusal(dataclasses.replace(valid, jwt=jwt))


# --- revocation ---------------------------------------------------------------------------------


async def revoke(broker: MeshBroker, user: str) -> None:
    token = broker.mesh.accounts.set_revocations({user: int(time.time())}, now=int(time.time()))
    system = await connect_raw(broker.issue("system", "system-1"))
    answer = await system.request("$SYS.REQ.CLAIMS.UPDATE", token.encode(), timeout=SEEN_S)
    assert b'"code":200' in answer.data
    await system.close()


async def test_revoked_agent_is_cut_off_and_stays_out_others_stay(broker: MeshBroker) -> None:
    bad, good = broker.issue("agent", "web-1", "web"), broker.issue("agent", "web-2", "web")
    cut, kept = await Watched.connect(bad), await Watched.connect(good)
    await revoke(broker, bad.user)
    async with asyncio.timeout(SEEN_S):
        await cut.closed.wait()
    assert "Authorization Violation" in await refusal(bad)
    await kept.fence()
    await kept.client.close()
    assert await refusal(broker.issue("agent", "web-1", "web")) == "", "a new key of the same agent"


@pytest.mark.parametrize("is_resolver_lost", [False, True])
async def test_revocation_outlives_a_restart_of_the_broker(
    broker: MeshBroker, is_resolver_lost: bool
) -> None:
    bad, good = broker.issue("agent", "web-1", "web"), broker.issue("agent", "web-2", "web")
    await revoke(broker, bad.user)
    await broker.broker.stop()
    if is_resolver_lost:
        for path in (broker.directory / "broker" / "resolver").iterdir():
            path.unlink()
    await broker.broker.start()
    assert "Authorization Violation" in await refusal(bad)
    assert await refusal(good) == ""


# --- subjects of an agent -----------------------------------------------------------------------

OWN_UP = "mesh.v1.up.web.web-1.beat"
OWN_DOWN = "mesh.v1.down.web.web-1.run"

# What belongs to somebody else, whoever one is: nobody but a master may speak or listen here.
FOREIGN = (
    *(
        f"mesh.v1.up.{who}.{kind}"
        for who in ("web.web-2", "db.db-1", "db.web-1", "web.web-1x", "web")
        for kind in (
            "beat",
            "hello",
            "report",
            "reply.TOKEN",
            "log.c-1.1.stdout",
            "log.c-1.1.stderr",
        )
    ),
    *(
        f"mesh.v1.down.{who}.{kind}"
        for who in ("web.web-2", "db.db-1", "db.web-1")
        for kind in ("run", "control", "echo", "welcome", "release")
    ),
    "mesh.v1.enrol.web-2",
    "mesh.v1.api.alice.command.submit",
    "mesh.v1.api.alice.mesh.status",
    "mesh.v1.result.alice.c-1",
    "mesh.v1.fact.c-1.0.accepted",
    "mesh.v1.fact.c-1.1.outcome",
    "mesh.v1.history.web",
    "mesh.v2.up.web.web-1.beat",
    "$KV.mesh_registry.agent.web-2",
    "$KV.mesh_leases.web",
    "$O.anything.M.x",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.MESH_EVENTS",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.DELETE.MESH_EVENTS",
    "$JS.API.STREAM.PURGE.MESH_EVENTS",
    "$JS.API.STREAM.MSG.GET.MESH_EVENTS",
    "$JS.API.DIRECT.GET.MESH_EVENTS",
    "$JS.API.CONSUMER.CREATE.MESH_EVENTS",
    "$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.projector",
    "$JS.ACK.MESH_EVENTS.projector.1.1.1.1.0",
    "$JS.FC.MESH_EVENTS.x.y",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.CLAIMS.LIST",
    "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$SYS.ACCOUNT.x.CONNECT",
    "_INBOX.x",
    "_INBOX_web-2.x",
    "_INBOX_web-1x.x",
    "_INBOX_alice.x",
    "_INBOX_ENROL_web-2.x",
    "anything",
)
WILDCARDS = (
    ">",
    "*",
    "mesh.>",
    "mesh.v1.>",
    "mesh.v1.up.>",
    "mesh.v1.down.>",
    "mesh.v1.down.web.>",
    "mesh.v1.down.*.web-1.>",
    "mesh.v1.down.web.*.run",
    "mesh.v1.result.>",
    "mesh.v1.api.>",
    "mesh.v1.enrol.*",
    "mesh.v1.fact.>",
    "_INBOX.>",
    "$JS.>",
    "$SYS.>",
    "$KV.>",
)


async def test_agent_publishes_below_its_own_prefix_alone(
    broker: MeshBroker, master: Watched
) -> None:
    agent = await Watched.connect(broker.issue("agent", "web-1", "web"))
    discovery = ("$SRV.PING", "$SRV.INFO", "$SRV.STATS.mesh")
    others = (*FOREIGN, *discovery, OWN_DOWN, "_INBOX_web-1.x", "mesh.v1.enrol.web-1")
    assert await publish_all(agent, others) == []
    assert not await agent.is_publish_refused(OWN_UP)
    await master.wait_received(OWN_UP)
    assert master.received == [OWN_UP]
    await agent.client.close()


async def test_agent_hears_what_is_sent_to_it_alone(broker: MeshBroker, master: Watched) -> None:
    agent = await Watched.connect(broker.issue("agent", "web-1", "web"))
    open_to_it = [
        subject
        for subject in (*FOREIGN, *WILDCARDS, OWN_UP, "mesh.v1.up.web.web-1.>", "$SRV.PING")
        if not await agent.is_subscribe_refused(subject)
    ]
    assert open_to_it == []
    assert not await agent.is_subscribe_refused("mesh.v1.down.web.web-1.>")
    assert not await agent.is_subscribe_refused("_INBOX_web-1.>")
    for subject in (*FOREIGN, OWN_DOWN, "_INBOX_web-1.x"):
        if not subject.startswith("$"):
            await master.client.publish(subject, b"")
    await agent.wait_received("_INBOX_web-1.x")
    assert agent.received == [OWN_DOWN, "_INBOX_web-1.x"]
    await agent.client.close()


async def test_agent_may_not_join_a_queue_of_others(broker: MeshBroker, master: Watched) -> None:
    agent = await Watched.connect(broker.issue("agent", "web-1", "web"))
    for subject in ("mesh.v1.down.web.web-2.run", "mesh.v1.api.alice.command.submit", ">"):
        agent.errors.clear()
        await agent.client.subscribe(subject, queue="q", cb=agent.on_message)
        await agent.fence()
        assert "permissions violation for subscription" in agent.errors[0]
    await agent.client.close()


async def test_oversize_payload_is_not_delivered_and_ends_the_connection(
    broker: MeshBroker, master: Watched
) -> None:
    agent = await Watched.connect(broker.issue("agent", "web-1", "web"))
    await agent.client.publish(OWN_UP, b"x" * limits.PAYLOAD_BYTES)
    await master.wait_received(OWN_UP)
    agent.client._max_payload = 1 << 30  # the stock client would refuse by itself
    await agent.client.publish(OWN_UP + "2", b"x" * (limits.PAYLOAD_BYTES + 1))
    async with asyncio.timeout(SEEN_S):
        await agent.closed.wait()
    await logged(broker, "maximum payload exceeded")
    await master.fence()
    assert master.received == [OWN_UP]


async def test_agent_holds_so_many_subscriptions_and_no_more(broker: MeshBroker) -> None:
    agent = await Watched.connect(broker.issue("agent", "web-1", "web"))
    for number in range(20):
        assert not await agent.is_subscribe_refused(f"mesh.v1.down.web.web-1.k{number}")
    await agent.client.subscribe("mesh.v1.down.web.web-1.k20")
    async with asyncio.timeout(SEEN_S):
        await agent.closed.wait()
    await logged(broker, "maximum subscriptions exceeded")


# --- subjects of a token's bearer ---------------------------------------------------------------


async def test_bootstrap_credentials_reach_enrolment_of_their_agent_alone(
    broker: MeshBroker, master: Watched
) -> None:
    bearer = await Watched.connect(broker.issue("enrol", "web-1"))
    others = (*FOREIGN, OWN_UP, OWN_DOWN, "$SRV.PING", "mesh.v1.enrol.web-1.x")
    assert await publish_all(bearer, others) == []
    open_to_it = [
        subject
        for subject in (
            *FOREIGN,
            *WILDCARDS,
            OWN_UP,
            OWN_DOWN,
            "_INBOX_web-1.>",
            "mesh.v1.enrol.web-1",
        )
        if not await bearer.is_subscribe_refused(subject)
    ]
    assert open_to_it == []
    assert not await bearer.is_publish_refused("mesh.v1.enrol.web-1")
    await master.wait_received("mesh.v1.enrol.web-1")
    assert master.received == ["mesh.v1.enrol.web-1"]
    assert not await bearer.is_subscribe_refused("_INBOX_ENROL_web-1.>")
    await bearer.client.close()


# --- subjects of clients ------------------------------------------------------------------------

NOUNS = {
    "command": ("submit", "show", "list", "cancel", "wait", "logs"),
    "agent": ("create", "list", "show", "enable", "disable", "rotate", "revoke", "delete", "token"),
    "group": ("create", "list", "show", "delete"),
    "client": ("create", "list", "show", "delete", "disable"),
    "certificate": ("list", "revoke"),
    "recipe": ("create", "run"),
    "mesh": ("status",),
}


@pytest.mark.parametrize("role", CLIENT_ROLES)
async def test_sec_s13_client_calls_what_its_role_may_under_its_own_name(
    broker: MeshBroker, master: Watched, role: str
) -> None:
    client = await Watched.connect(broker.issue(role, "bob"))
    verbs = [(noun, verb) for noun, names in NOUNS.items() for verb in names]
    allowed = [
        f"mesh.v1.api.bob.{noun}.{verb}" for noun, verb in verbs if may_call(role, noun, verb)
    ]
    assert await publish_all(client, [f"mesh.v1.api.bob.{n}.{v}" for n, v in verbs]) == allowed
    assert await publish_all(client, [f"mesh.v1.api.alice.{n}.{v}" for n, v in verbs]) == []
    assert await publish_all(client, [*FOREIGN, OWN_UP, OWN_DOWN, "mesh.v1.enrol.web-1"]) == []
    assert await publish_all(client, ["mesh.v1.result.bob.c-1", "_INBOX_bob.x"]) == []
    assert await publish_all(client, ["$SRV.PING", "$SRV.INFO.mesh"]) != []
    await master.wait_received("$SRV.INFO.mesh")
    assert master.received == [*allowed, "$SRV.PING", "$SRV.INFO.mesh"]
    await client.client.close()


@pytest.mark.parametrize("role", CLIENT_ROLES)
async def test_client_hears_its_own_results_and_answers_alone(
    broker: MeshBroker, master: Watched, role: str
) -> None:
    client = await Watched.connect(broker.issue(role, "bob"))
    mine = ("mesh.v1.result.bob.>", "_INBOX_bob.>")
    others = (*FOREIGN, *WILDCARDS, OWN_UP, OWN_DOWN, "mesh.v1.api.bob.command.submit", "$SRV.PING")
    open_to_it = [
        subject for subject in (*others, *mine) if not await client.is_subscribe_refused(subject)
    ]
    assert open_to_it == list(mine)
    for subject in (*FOREIGN, "mesh.v1.result.bob.c-1"):
        if not subject.startswith("$"):
            await master.client.publish(subject, b"")
    await client.wait_received("mesh.v1.result.bob.c-1")
    assert client.received == ["mesh.v1.result.bob.c-1"]
    await client.client.close()


async def test_rights_of_viewers_operators_and_admins_include_each_other() -> None:
    calls = [
        {(noun, verb) for noun, names in NOUNS.items() for verb in names if may_call(r, noun, verb)}
        for r in CLIENT_ROLES
    ]
    assert calls[0] < calls[1] < calls[2]


# --- the system user ----------------------------------------------------------------------------


async def test_system_user_sees_connections_and_kicks_one(broker: MeshBroker) -> None:
    """In this way a master finds a token that is used beside another agent's certificate."""
    agent = await Watched.connect(broker.issue("agent", "web-1", "web"))
    system = await connect_raw(broker.issue("system", "system-1"))
    info = agent.client._server_info
    subject = f"$SYS.REQ.SERVER.{info['server_id']}"
    answer = await system.request(f"{subject}.CONNZ", b'{"auth":true}', timeout=SEEN_S)
    assert b"CN=web-1" in answer.data
    kick = f'{{"cid":{agent.client.client_id}}}'.encode()
    await system.request(f"{subject}.KICK", kick, timeout=SEEN_S)
    async with asyncio.timeout(SEEN_S):
        await agent.closed.wait()
    await system.close()


async def test_system_user_and_master_do_not_meet(broker: MeshBroker, master: Watched) -> None:
    """A master's connection cannot update the account, nor the system user touch commands."""
    system = await Watched.connect(broker.issue("system", "system-1"))
    assert (
        await publish_all(system, ["mesh.v1.fact.c-1.0.accepted", OWN_DOWN, "$JS.API.INFO"]) == []
    )
    await system.client.subscribe("$SYS.REQ.CLAIMS.UPDATE", cb=system.on_message)
    await system.fence()
    await master.client.publish("$SYS.REQ.CLAIMS.UPDATE", b"x")
    await master.fence()
    await system.fence()
    assert system.received == []
    await system.client.close()
