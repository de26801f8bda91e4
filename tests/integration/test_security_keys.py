"""Keys that are certified, and group limits on a real mesh; their matrix is a unit test."""

import asyncio
import base64
import secrets
from pathlib import Path

import msgspec
import pytest

from broker_agent.store.identity_slots import IdentitySlots
from broker_client.api import MeshClient
from broker_client.runtime.identity import NewIdentity, new_identity, read_identity
from broker_client.runtime.nkeys import KeyPair, any_kind
from broker_client.runtime.proofs import key_proof, renewal_request
from broker_client.runtime.token import decode_token
from broker_master.ca.mesh import open_mesh
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.api import (
    AgentCreate,
    ClientCreate,
    ClientList,
    ClientsAnswer,
    Done,
    IdentityAnswer,
    NameQuery,
    SubmitAnswer,
    SubmitRequest,
    TokenAnswer,
)
from schemas.messages.enrol import EnrolAnswer, EnrolRequest
from tests.harness import MeshProcesses
from tests.integration.test_enrolment import bootstrap
from tests.meshes import ANSWER_S, fault, mesh_fixture, raw

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-keys")]


mesh = mesh_fixture({"web": ("web-1",)})


def request(
    name: str, keys: NewIdentity, *, user: str = "", proof: bytes | None = None, mesh: str = ""
) -> ClientCreate:
    return ClientCreate(
        name=name,
        role="viewer",
        csr_pem=keys.csr_pem.decode(),
        user_nkey=user or keys.user,
        user_signature=key_proof("client", mesh, name, keys) if proof is None else proof,
    )


async def code_of(admin: MeshClient, wanted: ClientCreate) -> str:
    """With what a creation is refused; empty if it is not."""
    try:
        await admin.ask("client", "create", wanted, IdentityAnswer)
    except MeshError as error:
        return error.code
    return ""


async def names(admin: MeshClient) -> set[str]:
    listed = await admin.ask("client", "list", ClientList(), ClientsAnswer)
    return {each.client for each in listed.clients}


async def taken_keys(mesh: MeshProcesses, admin: MeshClient) -> dict[str, str]:
    """A broker key of each kind of holder."""
    opened = open_mesh(mesh.state_dir)
    gone = f"gone-{secrets.token_hex(4)}"
    revoked = new_identity(gone)
    assert not await code_of(admin, request(gone, revoked, mesh=opened.id))
    await admin.ask("client", "revoke", NameQuery(name=gone), Done)
    token = await admin.ask(
        "agent", "token", AgentCreate(name="web-1", ttl_s=60), TokenAnswer
    )  # its bootstrap key is the mesh's
    accounts = opened.accounts
    letters = {
        "operator": accounts._keys["operator"].public,
        "account": accounts.account,
        "system account": accounts.system_account,
        "signing key": accounts.signing_key("agent").public,
        "master's signing key": accounts.signing_key("master").public,
    }
    return {
        "agent": IdentitySlots(mesh.agent_dir("web-1")).identity().claims.user,
        "client": read_identity(mesh.admin_context.with_suffix("")).claims.user,
        "master": read_identity(opened.master_directory).claims.user,
        "system": read_identity(opened.system_directory).claims.user,
        "revoked": revoked.user,
        "token": decode_token(token.token).identity().claims.user,
        **{kind: as_user(public) for kind, public in letters.items()},
    }


def as_user(public: str) -> str:
    return next(each for each in any_kind(public) if each.startswith("U"))


def not_signed(csr_pem: bytes) -> bytes:
    """The same request with a signature that its key has not made."""
    head, *body, tail = csr_pem.decode().strip().splitlines()
    der = bytearray(base64.b64decode("".join(body)))
    der[-1] ^= 1
    return "\n".join([head, base64.b64encode(der).decode(), tail, ""]).encode()


async def test_sec_s32_client_gets_nothing_for_a_key_that_is_somebodys(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    taken = await taken_keys(mesh, admin)
    before = await names(admin)
    for number, (whose, user) in enumerate(taken.items()):
        unproved = request(f"thief-{number}", new_identity("thief"), user=user, proof=b"")
        assert await code_of(admin, unproved) == "request_invalid", whose
    assert await names(admin) == before
    # Whoever has them goes on with them, and is known by them.
    done = await admin.run(["true"], group="web")
    assert done.state == "succeeded"
    await mesh.wait_status("web-1", "active")


async def test_sec_s32_proof_is_for_one_mesh_name_and_purpose(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    mesh_id, keys = open_mesh(mesh.state_dir).id, new_identity("fresh")
    other = new_identity("fresh")
    wrong = {
        "another name": key_proof("client", mesh_id, "fresher", keys),
        "another mesh": key_proof("client", "0" * 16, "fresh", keys),
        "another purpose": key_proof("enrolment", mesh_id, "fresh", keys),
        "another key": key_proof("client", mesh_id, "fresh", other),
        "noise": secrets.token_bytes(64),
    }
    for what, proof in wrong.items():
        assert await code_of(admin, request("fresh", keys, proof=proof)) == "request_invalid", what
    mixed = msgspec.structs.replace(
        request("fresh", keys, mesh=mesh_id), csr_pem=other.csr_pem.decode()
    )
    assert await code_of(admin, mixed) == "request_invalid"
    spoilt = msgspec.structs.replace(keys, csr_pem=not_signed(keys.csr_pem))
    assert await code_of(admin, request("fresh", spoilt, mesh=mesh_id)) == "request_invalid"
    assert "fresh" not in await names(admin)
    assert await code_of(admin, request("fresh", keys, mesh=mesh_id)) == ""
    # The certificate's key is one holder's as well, whatever the broker key is.
    seed = KeyPair.create("user")
    again = msgspec.structs.replace(keys, seed=seed.seed, user=seed.public)
    assert await code_of(admin, request("second", again, mesh=mesh_id)) == "request_invalid"


async def test_sec_s32_of_many_who_ask_at_once_one_gets_a_key(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    mesh_id, keys = open_mesh(mesh.state_dir).id, new_identity("race")
    wanted = [request(f"race-{n}", keys, mesh=mesh_id) for n in range(8)]
    codes = await asyncio.gather(*(code_of(admin, each) for each in wanted))
    assert sorted(codes) == ["", *["request_invalid"] * 7]


async def test_sec_s32_agent_enrols_with_new_keys_of_its_own_alone(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    mesh_id = open_mesh(mesh.state_dir).id
    taken = await taken_keys(mesh, admin)
    created = AgentCreate(name="late", group="web", ttl_s=600)
    token = decode_token((await admin.ask("agent", "create", created, TokenAnswer)).token)
    keys = new_identity("late")

    def asked(user: str, proof: bytes) -> EnrolRequest:
        csr_pem = keys.csr_pem.decode()
        return EnrolRequest(
            secret=token.secret, csr_pem=csr_pem, user_nkey=user, user_signature=proof
        )

    async with raw(bootstrap(token, tmp_path, mesh.nats_url)) as client:

        async def enrol(user: str, proof: bytes = b"") -> str:
            payload = codec.encode(asked(user, proof))
            answer = await client.request(subjects.enrol("late"), payload, timeout=ANSWER_S)
            if answer.headers:
                return fault(answer).code
            _ = codec.decode(EnrolAnswer, answer.data)
            return ""

        for whose, user in taken.items():
            assert await enrol(user) == "request_invalid", whose
        assert (
            await enrol(keys.user, key_proof("client", mesh_id, "late", keys)) == "request_invalid"
        )
        proof = key_proof("enrolment", mesh_id, "late", keys)
        assert await enrol(keys.user, proof) == ""
        assert await enrol(keys.user, proof) == ""  # its answer got lost
    # What it has had is not had again once it was taken away.
    await admin.ask("agent", "revoke", NameQuery(name="late"), Done)
    again = await admin.ask("agent", "token", AgentCreate(name="late", ttl_s=600), TokenAnswer)
    token = decode_token(again.token)
    async with raw(bootstrap(token, tmp_path / "again", mesh.nats_url)) as client:
        payload = codec.encode(asked(keys.user, proof))
        answer = await client.request(subjects.enrol("late"), payload, timeout=ANSWER_S)
        assert fault(answer).code == "request_invalid"


async def test_sec_s32_agent_of_then_enrols_without_a_proof_and_the_trail_says_so(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    created = AgentCreate(name="then", group="web", ttl_s=600)
    token = decode_token((await admin.ask("agent", "create", created, TokenAnswer)).token)
    keys = new_identity("then")
    asked = EnrolRequest(secret=token.secret, csr_pem=keys.csr_pem.decode(), user_nkey=keys.user)
    async with raw(bootstrap(token, tmp_path, mesh.nats_url)) as client:
        answer = await client.request(subjects.enrol("then"), codec.encode(asked), timeout=ANSWER_S)
        assert codec.decode(EnrolAnswer, answer.data).agent == "then"
    trail = await mesh.cli("audit", "list", "--action", "agent.enrol", "--output", "json")
    details = [each["detail"] for each in trail.json if each["target"] == "then"]
    assert len(details) == 1
    assert "not proved" in details[0]
    # Nobody else gets that key from now on, so that to revoke it cuts nobody else off.
    assert await code_of(admin, request("heir", keys, proof=b"")) == "request_invalid"


async def held_by_another(mesh: MeshProcesses, admin: MeshClient, name: str) -> NewIdentity:
    """Keys as an agent keeps them from a try whose answer got lost, and a client has by now."""
    keys = new_identity(name)
    holder = f"holder-{secrets.token_hex(4)}"
    asked = request(holder, keys)
    proof = key_proof("client", open_mesh(mesh.state_dir).id, holder, keys)
    wanted = msgspec.structs.replace(asked, user_signature=proof)
    assert await code_of(admin, wanted) == ""
    return keys


async def test_sec_s32_agent_whose_kept_keys_are_refused_is_set_up_with_new_ones(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    keys = await held_by_another(mesh, admin, "keeper")
    created = AgentCreate(name="keeper", group="web", ttl_s=600)
    token = (await admin.ask("agent", "create", created, TokenAnswer)).token
    slots, where = IdentitySlots(mesh.agent_dir("keeper")), str(mesh.agent_dir("keeper"))
    slots.begin(keys)
    ran = await mesh._run("broker-agent", "setup", "--state-dir", where, "--token=-", stdin=token)
    assert ran.code == 0, ran.err
    assert slots.identity().claims.user != keys.user
    trail = await mesh.cli("audit", "list", "--action", "agent.enrol", "--output", "json")
    told = [(each["result"], each["code"]) for each in trail.json if each["target"] == "keeper"]
    assert told == [("done", ""), ("refused", "request_invalid")]


async def test_sec_s32_agent_whose_kept_keys_are_refused_renews_with_new_ones(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """At once and in the same process; the keys in use stay until then."""
    keys = await held_by_another(mesh, admin, "web-1")
    slots = IdentitySlots(mesh.agent_dir("web-1"))
    before = slots.identity().claims.user
    slots.begin(keys)
    ran = await mesh.cli("agent", "rotate", "web-1", "--wait")
    assert ran.code == 0, ran.err
    assert slots.identity().claims.user not in (before, keys.user)
    assert "kept_keys_refused" in mesh.agents["web-1"].stderr
    assert (await admin.run(["true"], agent="web-1")).state == "succeeded"


async def test_sec_s32_client_does_not_renew_into_an_older_key(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    made = await mesh.cli(
        "client", "create", "turn", "--role", "viewer", "--out", str(tmp_path / "turn")
    )
    assert made.code == 0, made.err
    folder = tmp_path / "turn"
    first = read_identity(folder).creds
    renewed = await mesh.cli("client", "renew", context=folder / "context.toml")
    assert renewed.code == 0, renewed.err
    keys = new_identity("turn")
    older = KeyPair.from_seed(first.seed)
    back = msgspec.structs.replace(keys, seed=older.seed, user=older.public)
    cert_pem, key_pem = (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()
    async with mesh.client(folder / "context.toml") as client:
        asked = renewal_request("turn", back, cert_pem=cert_pem, key_pem=key_pem)
        with pytest.raises(MeshError) as refused:
            await client.ask("client", "renew", asked, IdentityAnswer)
    assert refused.value.code == "request_invalid"
    assert "older" in refused.value.message


async def test_sec_s31_limits_hold_on_a_real_mesh(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    await mesh.add_group("db")
    created = AgentCreate(name="db-1", group="db", ttl_s=600)
    await admin.ask("agent", "create", created, TokenAnswer)
    folder = tmp_path / "boss"
    made = await mesh.cli(
        "client", "create", "boss", "--role=admin", "--group=web", f"--out={folder}"
    )
    assert made.code == 0, made.err
    waits = SubmitRequest(id="theirs", agent="db-1", action="noop")
    await admin.ask("command", "submit", waits, SubmitAnswer)
    async with mesh.client(folder / "context.toml") as boss:
        assert await names(boss) == {"boss"}
        status = await boss.status()
        assert "queued" not in status.commands
        for noun, verb, asked in (
            ("client", "revoke", NameQuery(name="admin")),
            ("client", "create", request("wider", new_identity("wider"), proof=b"")),
            ("command", "submit", waits),
            ("group", "show", NameQuery(name="db")),
        ):
            with pytest.raises(MeshError) as refused:
                await boss.ask(noun, verb, asked, Done)
            assert refused.value.code == "forbidden", (noun, verb)
        reserved = SubmitRequest(id="__x", group="web", action="noop")
        with pytest.raises(MeshError) as refused:
            await boss.ask("command", "submit", reserved, SubmitAnswer)
        assert refused.value.code == "id_reserved"
        # What it has waiting ends once it is revoked.
        later = AgentCreate(name="web-9", group="web", ttl_s=600)
        await boss.ask("agent", "create", later, TokenAnswer)
        mine = SubmitRequest(id="mine", agent="web-9", action="noop")
        await boss.ask("command", "submit", mine, SubmitAnswer)
        await admin.ask("client", "revoke", NameQuery(name="boss"), Done)
        ended = await admin.wait("mine", timeout_s=ANSWER_S)
        assert (ended.state, ended.reason.partition(":")[0]) == ("rejected", "client_disabled")
    trail = await mesh.cli("audit", "list", "--by", "boss", "--output", "json")
    refusals = {(each["action"], each["code"]) for each in trail.json}
    assert {
        ("client.revoke", "forbidden"),
        ("command.submit", "forbidden"),
        ("command.reject", "client_disabled"),
    } <= refusals
