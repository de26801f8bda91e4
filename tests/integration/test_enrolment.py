"""Activation tokens: what one of them is good for, once."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client

from broker_client.api import MeshClient
from broker_client.runtime.identity import (
    NewIdentity,
    new_identity,
    read_identity,
    write_identity,
)
from broker_client.runtime.tls import certificate_facts
from broker_client.runtime.token import ActivationToken, decode_token
from schemas import codec, subjects
from schemas.faults import FaultBody
from schemas.messages.api import AgentCreate, AgentRecord, Done, NameQuery, TokenAnswer
from schemas.messages.enrol import EnrolAnswer, EnrolRequest
from tests.harness import MeshProcesses
from tests.meshes import fault, issuer, mesh_fixture, raw, refused
from tests.servers import TestCredentials, connect_raw
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-enrolment")]

ANSWER_S = 60.0


mesh = mesh_fixture({"web": ()})


async def created(admin: MeshClient, name: str, *, ttl_s: float = 3600.0) -> TokenAnswer:
    request = AgentCreate(name=name, group="web", ttl_s=ttl_s)
    return await admin.ask("agent", "create", request, TokenAnswer)


async def shown(admin: MeshClient, name: str) -> AgentRecord:
    return await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)


class Bearer:
    """Somebody with a token, who asks over one connection of the broker's."""

    def __init__(self, client: Client, token: ActivationToken) -> None:
        self._client = client
        self._token = token

    async def enrol(
        self, keys: NewIdentity, *, secret: bytes | None = None
    ) -> EnrolAnswer | FaultBody:
        request = EnrolRequest(
            secret=secret or self._token.secret,
            csr_pem=keys.csr_pem.decode(),
            user_nkey=keys.user,
        )
        subject = subjects.enrol(self._token.agent)
        answer = await self._client.request(subject, codec.encode(request), timeout=ANSWER_S)
        if answer.headers:
            return fault(answer)
        return codec.decode(EnrolAnswer, answer.data)


@pytest.fixture
async def bearers(mesh: MeshProcesses) -> AsyncIterator["Bearers"]:
    made = Bearers(mesh)
    yield made
    for client in made.clients:
        await client.close()


class Bearers:
    def __init__(self, mesh: MeshProcesses) -> None:
        self._mesh = mesh
        self.clients: list[Client] = []

    async def of(self, text: str) -> Bearer:
        """A connection with the token's own bootstrap identity."""
        token = decode_token(text)
        folder = self._mesh.directory / "bearers" / str(len(self.clients))
        credentials = bootstrap(token, folder, self._mesh.nats_url)
        self.clients.append(await connect_raw(credentials))
        return Bearer(self.clients[-1], token)


def bootstrap(token: ActivationToken, folder: Path, url: str) -> TestCredentials:
    identity = token.identity()
    return TestCredentials(
        role="enrol",
        name=token.agent,
        folder=folder,
        url=url,
        context=identity.context,
        jwt=identity.creds.jwt,
        seed=identity.creds.seed,
        user="",
        serial="",
        not_after=token.expires_at,
    )


async def test_token_makes_an_identity_for_its_agent_and_group(
    admin: MeshClient, bearers: Bearers
) -> None:
    issued = await created(admin, "first")
    assert (await shown(admin, "first")).status == "awaiting_setup"
    answer = await (await bearers.of(issued.token)).enrol(new_identity("first"))
    assert isinstance(answer, EnrolAnswer)
    assert (answer.agent, answer.group) == ("first", "web")
    certificate = certificate_facts(answer.cert_pem.encode())
    assert (certificate.serial, certificate.not_after) == (answer.serial, answer.not_after)
    record = await shown(admin, "first")
    assert record.certificate is not None
    assert record.certificate.serial == answer.serial
    assert (record.status, record.reason) == ("awaiting_setup", "enrolled, not connected yet")


async def test_sec_s03_token_works_once_but_the_same_keys_may_ask_again(
    admin: MeshClient, bearers: Bearers
) -> None:
    issued = await created(admin, "once")
    bearer = await bearers.of(issued.token)
    keys = new_identity("once")
    assert isinstance(await bearer.enrol(keys), EnrolAnswer)
    other = await bearer.enrol(new_identity("once"))
    assert isinstance(other, FaultBody)
    assert (other.code, other.retry) == ("token_used", "never")
    again = await bearer.enrol(keys)
    assert isinstance(again, EnrolAnswer)
    assert certificate_facts(again.cert_pem.encode()).serial == again.serial


async def test_sec_s03_of_fifty_who_use_one_token_at_once_exactly_one_wins(
    admin: MeshClient, bearers: Bearers
) -> None:
    issued = await created(admin, "rush")
    connections = [await bearers.of(issued.token) for _ in range(5)]
    rivals = [new_identity("rush") for _ in range(50)]
    answers = await asyncio.gather(
        *(connections[n % 5].enrol(keys) for n, keys in enumerate(rivals))
    )
    won = [n for n, answer in enumerate(answers) if isinstance(answer, EnrolAnswer)]
    assert len(won) == 1
    lost = {answer.code for answer in answers if isinstance(answer, FaultBody)}
    assert lost == {"token_used"}
    again = await asyncio.gather(*(connections[0].enrol(rivals[won[0]]) for _ in range(5)))
    assert all(isinstance(answer, EnrolAnswer) for answer in again)


async def test_sec_s03_expired_token_is_refused_by_master_and_broker(
    mesh: MeshProcesses, admin: MeshClient, bearers: Bearers, tmp_path: Path
) -> None:
    issued = await created(admin, "late", ttl_s=3)
    bearer = await bearers.of(issued.token)
    async with asyncio.timeout(PATIENCE_S):
        while time.time() < decode_token(issued.token).expires_at:
            await asyncio.sleep(0.05)
    try:
        answer = await bearer.enrol(new_identity("late"))
    except Exception as error:  # noqa: BLE001  the broker may have ended the connection before
        answer = FaultBody(code="token_expired", message=repr(error))
    assert isinstance(answer, FaultBody)
    assert answer.code == "token_expired"
    setup = ["setup", "--state-dir", str(tmp_path / "late"), "--token", issued.token]
    ran = await mesh._run("broker-agent", *setup)
    assert ran.code == 77
    assert "token_expired" in ran.err
    record = await shown(admin, "late")
    assert (record.reason, record.next) == (
        "its activation token has expired",
        "mesh agent token late",
    )


async def test_expired_token_is_refused_by_the_master_alone_too(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """The bootstrap credential ends with the token; a longer one does not lengthen the token."""
    issued = await created(admin, "late-two", ttl_s=1)
    token = decode_token(issued.token)
    async with raw(issuer(mesh).issue("enrol", "late-two")) as client:
        async with asyncio.timeout(PATIENCE_S):
            while time.time() <= token.expires_at:
                await asyncio.sleep(0.05)
        answer = await Bearer(client, token).enrol(new_identity("late-two"))
    assert isinstance(answer, FaultBody)
    assert answer.code == "token_expired"


async def test_sec_s03_token_of_one_agent_is_nothing_for_another(
    admin: MeshClient, bearers: Bearers, mesh: MeshProcesses
) -> None:
    mine, _ = await created(admin, "mine"), await created(admin, "other")
    token = decode_token(mine.token)
    async with raw(issuer(mesh).issue("enrol", "other")) as client:
        answer = await Bearer(client, rename(token, "other")).enrol(new_identity("other"))
    assert isinstance(answer, FaultBody)
    assert answer.code == "token_invalid"
    assert isinstance(await (await bearers.of(mine.token)).enrol(new_identity("mine")), EnrolAnswer)


def rename(token: ActivationToken, agent: str) -> ActivationToken:
    return msgspec.structs.replace(token, agent=agent)


async def test_names_in_the_request_are_not_believed(admin: MeshClient, bearers: Bearers) -> None:
    """The subject gives the name: a request signed for another name gives a certificate of ours."""
    issued = await created(admin, "plain")
    answer = await (await bearers.of(issued.token)).enrol(new_identity("master"))
    assert isinstance(answer, EnrolAnswer)
    assert answer.agent == "plain"


async def test_sec_s03_broker_key_of_another_is_not_taken_over(
    admin: MeshClient, bearers: Bearers
) -> None:
    """A host that could enter a key under its own name could revoke it, and cut off its owner."""
    keys = new_identity("owner")
    owner = await created(admin, "owner")
    assert isinstance(await (await bearers.of(owner.token)).enrol(keys), EnrolAnswer)
    greedy = await bearers.of((await created(admin, "greedy")).token)
    answer = await greedy.enrol(msgspec.structs.replace(new_identity("greedy"), user=keys.user))
    assert isinstance(answer, FaultBody)
    assert answer.code == "request_invalid"
    assert isinstance(await greedy.enrol(new_identity("greedy")), EnrolAnswer)


async def test_sec_s03_guessing_is_slowed_down_and_harms_no_other_agent(
    admin: MeshClient, bearers: Bearers
) -> None:
    issued, other = await created(admin, "guessed"), await created(admin, "spared")
    bearer = await bearers.of(issued.token)
    keys = new_identity("guessed")
    codes = []
    for _ in range(8):
        answer = await bearer.enrol(keys, secret=b"not the secret at all, though long")
        assert isinstance(answer, FaultBody)
        codes.append(answer.code)
    assert codes == ["token_invalid"] * 5 + ["rate_limited"] * 3
    spared = await bearers.of(other.token)
    assert isinstance(await spared.enrol(new_identity("spared")), EnrolAnswer)
    # Guesses do not lock out whoever has the right one.
    assert isinstance(await bearer.enrol(keys), EnrolAnswer)


async def test_new_token_ends_the_one_before(admin: MeshClient, bearers: Bearers) -> None:
    old = await created(admin, "renewed")
    new = await admin.ask("agent", "token", AgentCreate(name="renewed"), TokenAnswer)
    stale = await (await bearers.of(old.token)).enrol(new_identity("renewed"))
    assert isinstance(stale, FaultBody)
    assert stale.code == "token_invalid"
    fresh = await (await bearers.of(new.token)).enrol(new_identity("renewed"))
    assert isinstance(fresh, EnrolAnswer)


async def test_revoked_agent_is_cut_off_and_readmitted_by_a_token_with_new_keys(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    agent = await mesh.add_agent("comeback", group="web", slots=1)
    first = (await mesh.wait_status("comeback", "active")).certificate
    await admin.ask("agent", "revoke", NameQuery(name="comeback"), Done)
    assert (await shown(admin, "comeback")).status == "disabled"
    await mesh.wait_status("comeback", "disabled")
    with refused("agent_revoked"):
        await admin.submit(["true"], agent="comeback")
    agent.kill()
    answer = await admin.ask("agent", "token", AgentCreate(name="comeback"), TokenAnswer)
    setup = ["setup", "--state-dir", str(mesh.agent_dir("comeback")), "--token", answer.token]
    ran = await mesh._run("broker-agent", *setup)
    assert ran.code == 0, ran.err
    await agent.start()
    second = (await mesh.wait_status("comeback", "active")).certificate
    assert first is not None
    assert second is not None
    assert first.serial != second.serial
    record = await admin.run(["echo", "back"], agent="comeback", timeout_s=PATIENCE_S)
    assert record.state == "succeeded"
    agent.kill()


async def test_every_key_that_is_still_valid_is_revoked_with_its_agent(
    mesh: MeshProcesses, admin: MeshClient, bearers: Bearers, tmp_path: Path
) -> None:
    """An agent that was set up again and again leaves no key behind that outlives its admission."""
    await created(admin, "often")
    made: list[TestCredentials] = []
    for number in range(6):
        issued = await admin.ask("agent", "token", AgentCreate(name="often"), TokenAnswer)
        keys = new_identity("often")
        answer = await (await bearers.of(issued.token)).enrol(keys)
        assert isinstance(answer, EnrolAnswer)
        folder = tmp_path / str(number)
        write_identity(
            folder,
            keys,
            cert_pem=answer.cert_pem.encode(),
            ca_pem=answer.ca_pem.encode(),
            jwt=answer.jwt,
        )
        made.append(
            TestCredentials(
                role="agent",
                name="often",
                folder=folder,
                url=mesh.nats_url,
                context=read_identity(folder).context,
                jwt=answer.jwt,
                seed=keys.seed,
                user=keys.user,
                serial=answer.serial,
                not_after=int(answer.not_after),
            )
        )
    await (await connect_raw(made[0])).close()
    await admin.ask("agent", "revoke", NameQuery(name="often"), Done)
    for credentials in made:
        with pytest.raises(Exception, match=r"(?i)authorization|EOF|reset|empty response"):
            await (await connect_raw(credentials)).close()


@pytest.mark.parametrize("name", ["agent.>", "../x", "a" * 64, "", "A", "a b", "-a", "ä", "a\n"])
async def test_names_out_of_shape_are_refused_and_nothing_is_made(
    mesh: MeshProcesses, admin: MeshClient, name: str
) -> None:
    before = [agent.agent for agent in await admin.agents()]
    for noun, verb in (("agent", "create"), ("agent", "token"), ("group", "create")):
        with refused("field_invalid"):
            await admin.ask(noun, verb, AgentCreate(name=name, group="web"), TokenAnswer)
    with refused("field_invalid"):
        await admin.submit(["true"], group=name)
    assert [agent.agent for agent in await admin.agents()] == before


async def test_names_of_agents_and_clients_are_one_space(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """Both have an inbox that is called after them."""
    with refused("name_taken"):
        await created(admin, "admin")
    await created(admin, "taken")
    with refused("agent_exists"):
        await created(admin, "taken")
    ran = await mesh.cli("agent", "create", "taken", "--group", "web", "--output", "json")
    assert ran.code == 6


async def test_unknown_agents_get_no_token(admin: MeshClient, mesh: MeshProcesses) -> None:
    with refused("agent_unknown"):
        await admin.ask("agent", "token", AgentCreate(name="nobody"), TokenAnswer)
    with refused("group_unknown"):
        await admin.ask("agent", "create", AgentCreate(name="x1", group="none"), TokenAnswer)
    with refused("field_invalid"):
        await admin.ask("agent", "create", AgentCreate(name="x1"), TokenAnswer)


async def test_hostile_requests_are_answered_with_a_fault(
    admin: MeshClient, bearers: Bearers
) -> None:
    issued = await created(admin, "hostile")
    bearer = await bearers.of(issued.token)
    client = bearers.clients[-1]
    keys = new_identity("hostile")
    secret = decode_token(issued.token).secret
    good = {"secret": secret, "csr_pem": keys.csr_pem.decode(), "user_nkey": keys.user}
    for payload in (
        b"",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
        codec.encode({}),
        codec.encode({**good, "csr_pem": "not a request"}),
        codec.encode({**good, "user_nkey": "U" * 56}),
        codec.encode({**good, "csr_pem": "x" * 20_000}),
        codec.encode({**good, "secret": b""}),
    ):
        answer = await client.request(subjects.enrol("hostile"), payload, timeout=ANSWER_S)
        assert fault(answer).code in ("malformed", "field_invalid", "request_invalid"), payload[:40]
    assert isinstance(await bearer.enrol(keys), EnrolAnswer)
