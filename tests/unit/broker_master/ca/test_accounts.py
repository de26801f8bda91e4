import contextlib
import stat
from pathlib import Path

import pytest

from broker_client.runtime import failpoints
from broker_client.runtime.files import write_private
from broker_client.runtime.nkeys import KeyPair
from broker_master.ca import accounts as module
from broker_master.ca import key_files, rotation_file
from broker_master.ca.accounts import Accounts
from broker_master.ca.claims import decode_jwt, encode_jwt
from broker_master.ca.key_files import OPERATOR, SYSTEM
from broker_master.core.rotation import STEPS
from schemas import limits
from schemas.faults import Corrupt, MeshError
from schemas.permissions import SCOPES, Scope

USER = KeyPair.create("user").public


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_second_creation_changes_nothing(tmp_path: Path) -> None:
    Accounts.create(tmp_path, mesh="m", now=1000)
    before = contents(tmp_path)
    Accounts.create(tmp_path, mesh="m", now=2000)
    Accounts.load(tmp_path, mesh="m", now=3000)
    assert contents(tmp_path) == before


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    Accounts.create(tmp_path, mesh="m", now=1000)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.nk")}
    assert modes == {0o600}


def test_each_role_has_its_key_with_the_template_of_the_contract(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    *scoped, master = decode_jwt(accounts.account_jwt)["nats"]["signing_keys"]
    assert master == accounts.signing_key("master").public
    assert {key["role"]: key["key"] for key in scoped} == {
        role: accounts.signing_key(role).public for role in SCOPES
    }
    agent = next(key["template"] for key in scoped if key["role"] == "agent")
    assert agent["pub"] == {"allow": ["mesh.v1.up.{{tag(group)}}.{{name()}}.>"]}
    assert agent["payload"] == limits.PAYLOAD_BYTES
    assert agent["allowed_connection_types"] == ["STANDARD"]
    assert decode_jwt(accounts.operator_jwt)["nats"]["strict_signing_key_usage"] is True


def test_revocations_are_kept_and_each_token_is_newer_than_the_last(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    tokens = [accounts.account_jwt]
    tokens += [accounts.set_revocations({USER: now}, now=now) for now in (1000, 1000, 500)]
    issued = [decode_jwt(token)["iat"] for token in tokens]
    assert issued == sorted(set(issued))
    again = Accounts.load(tmp_path, mesh="m", now=2000)
    assert again.revocations == {USER: 500}
    assert again.account_jwt == accounts.account_jwt


def test_only_user_keys_can_be_revoked(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    for text in ("*", accounts.account, ""):
        with pytest.raises(Corrupt):
            accounts.set_revocations({text: 1}, now=1000)
    assert accounts.revocations == {}


def test_new_permissions_reach_the_account_and_revocations_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Accounts.create(tmp_path, mesh="m", now=1000).set_revocations({USER: 9}, now=1000)
    scopes = {**SCOPES, "viewer": Scope(publish=("a",), subscribe=("b",))}
    monkeypatch.setattr(module, "SCOPES", scopes)
    accounts = Accounts.load(tmp_path, mesh="m", now=2000)
    keys = decode_jwt(accounts.account_jwt)["nats"]["signing_keys"]
    viewer = next(k for k in keys if isinstance(k, dict) and k["role"] == "viewer")
    assert viewer["template"]["pub"] == {"allow": ["a"]}
    assert accounts.revocations == {USER: 9}


@pytest.mark.parametrize("name", ["operator", "account", "scope-agent"])
def test_lost_key_is_a_fault_and_not_replaced(tmp_path: Path, name: str) -> None:
    """A silent new key would lock out every user of the old key."""
    Accounts.create(tmp_path, mesh="m", now=1000)
    (tmp_path / f"{name}.nk").unlink()
    with pytest.raises(MeshError) as caught:
        Accounts.load(tmp_path, mesh="m", now=1000)
    assert caught.value.code == "state_missing"
    with pytest.raises(Corrupt):
        Accounts.create(tmp_path, mesh="m", now=1000)


def test_swapped_key_is_corrupt(tmp_path: Path) -> None:
    Accounts.create(tmp_path, mesh="m", now=1000)
    (tmp_path / "master.nk").write_bytes((tmp_path / "operator.nk").read_bytes())
    with pytest.raises(Corrupt):
        Accounts.load(tmp_path, mesh="m", now=1000)


def test_unfinished_folder_is_not_loaded(tmp_path: Path) -> None:
    Accounts.create(tmp_path, mesh="m", now=1000)
    (tmp_path / "account.jwt").unlink()
    with pytest.raises(MeshError) as caught:
        Accounts.load(tmp_path, mesh="m", now=1000)
    assert caught.value.code == "state_missing"


def role_keys(accounts: Accounts, role: str) -> list[str]:
    keys = decode_jwt(accounts.account_jwt)["nats"]["signing_keys"]
    return [key["key"] for key in keys if isinstance(key, dict) and key["role"] == role]


def test_a_signing_key_is_replaced_with_both_admitted_in_between(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    others = {role: role_keys(accounts, role) for role in SCOPES if role != "agent"}
    first = accounts.signing_key("agent").public
    accounts.rotate("agent", "prepare", now=1001)
    assert accounts.signing_key("agent").public == first
    assert len(role_keys(accounts, "agent")) == 2
    accounts.rotate("agent", "activate", now=1002)
    second = accounts.signing_key("agent").public
    assert role_keys(accounts, "agent") == [first, second]
    assert (accounts.signer_of("agent", first), accounts.signer_of("agent", second)) == (1, 2)
    accounts.rotate("agent", "taint", now=1003)
    accounts.rotate("agent", "revoke", now=1004)
    assert role_keys(accounts, "agent") == [second]
    assert accounts.signer_of("agent", first) == 0
    assert {role: role_keys(accounts, role) for role in others} == others
    again = Accounts.load(tmp_path, mesh="m", now=2000)
    assert again.account_jwt == accounts.account_jwt
    assert again.signing_key("agent").public == second
    assert not (tmp_path / "scope-agent.nk").exists()


@pytest.mark.parametrize("place", ["master.key_made", "master.key_stepped"])
@pytest.mark.parametrize("count", range(4))
def test_a_cut_short_step_of_a_signing_key_is_completed(
    tmp_path: Path, count: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    def crash(name: str) -> None:
        if name == place:
            raise Crash

    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    for step in STEPS[:count]:
        accounts.rotate("master", step, now=1001)
    with monkeypatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(failpoints, "reach", crash)
        accounts.rotate("master", STEPS[count], now=1002)
    again = Accounts.load(tmp_path, mesh="m", now=1003)
    (token,) = again.rotate("master", STEPS[count], now=1004)
    keys = decode_jwt(token)["nats"]["signing_keys"]
    assert again.signing_key("master").public in keys
    assert len([key for key in keys if isinstance(key, str)]) == (1 if count == 3 else 2)


def operator_keys(accounts: Accounts) -> list[str]:
    keys: list[str] = decode_jwt(accounts.operator_jwt)["nats"]["signing_keys"]
    return keys


def test_operator_is_replaced_identity_and_signing_key(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    first, root = accounts.signing_key(OPERATOR).public, decode_jwt(accounts.operator_jwt)["sub"]
    users = {role: accounts.signing_key(role).public for role in SCOPES}
    accounts.revoke({USER: 9000.0}, now=1000)
    system, account = accounts.rotate(OPERATOR, "prepare", now=1000)
    prepared = accounts.operator_jwt
    assert operator_keys(accounts) == [first, accounts._signing_keys(OPERATOR)[1]]
    assert {decode_jwt(token)["iss"] for token in (system, account)} == {first}
    new_system, new_account = accounts.rotate(OPERATOR, "activate", now=1000)
    second = accounts.signing_key(OPERATOR).public
    for old, new in ((system, new_system), (account, new_account)):
        assert decode_jwt(new)["iss"] == second
        assert decode_jwt(new)["iat"] > decode_jwt(old)["iat"], "the broker keeps the newest"
        assert decode_jwt(new)["nats"] == decode_jwt(old)["nats"]
    assert accounts.operator_jwt == prepared, "no node starts again for this step"
    accounts.rotate(OPERATOR, "taint", now=1000)
    accounts.rotate(OPERATOR, "revoke", now=1000)
    assert operator_keys(accounts) == [second]
    claims = decode_jwt(accounts.operator_jwt)
    assert claims["sub"] == claims["iss"] != root
    assert {role: accounts.signing_key(role).public for role in SCOPES} == users
    assert set(accounts.revocations) == {USER}
    again = Accounts.load(tmp_path, mesh="m", now=2000)
    assert (again.operator_jwt, again.account_jwt) == (accounts.operator_jwt, new_account)
    assert {path.name for path in tmp_path.glob("operator*.nk")} == {
        "operator-2.nk",
        "operator-signing-2.nk",
    }


def test_system_key_is_replaced_and_the_mesh_account_stays(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    account, first = accounts.account_jwt, accounts.signing_key(SYSTEM).public
    tokens = [accounts.rotate(SYSTEM, step, now=1000) for step in STEPS]
    assert [len(each) for each in tokens] == [1, 1, 1, 1]
    signers = [decode_jwt(each[0])["nats"]["signing_keys"] for each in tokens]
    second = accounts.signing_key(SYSTEM).public
    assert signers == [[first, second]] * 3 + [[second]]
    issued = [decode_jwt(each[0])["iat"] for each in tokens]
    assert issued[-1] > issued[0]
    assert accounts.account_jwt == account


@pytest.mark.parametrize("key", [SYSTEM, OPERATOR])
@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("writes", range(6))
def test_step_of_a_nats_key_cut_short_at_any_write_is_completed_by_the_next_open(
    tmp_path: Path, key: str, count: int, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    accounts = Accounts.create(tmp_path / "a", mesh="m", now=1000)
    whole = Accounts.create(tmp_path / "b", mesh="m", now=1000)
    for step in STEPS[:count]:
        accounts.rotate(key, step, now=1001)
        whole.rotate(key, step, now=1001)
    left = [writes]

    def crash(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        write_private(path, data)

    with monkeypatch.context() as patch, contextlib.suppress(Crash):
        for place in (module, key_files, rotation_file):
            patch.setattr(place, "write_private", crash)
        accounts.rotate(key, STEPS[count], now=1002)
    again = Accounts.load(tmp_path / "a", mesh="m", now=1003)
    again.rotate(key, STEPS[count], now=1004)
    whole.rotate(key, STEPS[count], now=1004)
    assert again.rotation(key).stage == whole.rotation(key).stage
    assert set(contents(tmp_path / "a")) == set(contents(tmp_path / "b"))
    assert len(operator_keys(again)) == len(operator_keys(whole))
    signer = again.signing_key(OPERATOR).public
    assert {decode_jwt(each)["iss"] for each in (again.system_jwt, again.account_jwt)} == {signer}


def test_account_token_of_an_operator_that_is_trusted_no_more_is_corrupt(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    stranger = KeyPair.create("operator")
    claims = accounts._account_claims({})
    token = encode_jwt(claims, stranger, issued_at=1001)
    (tmp_path / "account.jwt").write_text(token)
    with pytest.raises(Corrupt):
        Accounts.load(tmp_path, mesh="m", now=1002)


def test_a_lost_key_is_noticed_and_the_list_of_the_refused_is_pruned(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    users = [KeyPair.create("user").public for _ in range(3)]
    accounts.revoke({users[0]: 2000.0, users[1]: 9000.0}, now=1000)
    assert set(accounts.revocations) == set(users[:2])
    accounts.revoke({users[2]: 9000.0}, now=1500)
    assert set(accounts.revocations) == set(users)
    again = Accounts.load(tmp_path, mesh="m", now=1500)
    again.revoke({}, now=2601)
    assert set(again.revocations) == set(users[1:])
    (tmp_path / "scope-agent.nk").unlink()
    with pytest.raises(Corrupt):
        Accounts.create(tmp_path, mesh="m", now=3000)


def test_sec_s11_shut_out_is_beside_the_revoked_and_ends_with_the_master(tmp_path: Path) -> None:
    other = KeyPair.create("user").public
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    accounts.revoke({USER: 9000.0}, now=1000)

    def refused(by: Accounts) -> set[str]:
        return set(decode_jwt(by.account_jwt)["nats"].get("revocations", {}))

    accounts.shut_out({USER, other}, now=1001)
    assert refused(accounts) == {USER, other}
    assert set(accounts.revocations) == {USER}
    accounts.revoke({}, now=1002)
    assert refused(accounts) == {USER, other}
    again = Accounts.load(tmp_path, mesh="m", now=1003)
    assert refused(again) == {USER}
    assert decode_jwt(again.account_jwt)["iat"] > decode_jwt(accounts.account_jwt)["iat"]
    accounts.shut_out((), now=1004)
    assert refused(accounts) == {USER}


def test_key_revoked_while_shut_out_stays_out(tmp_path: Path) -> None:
    accounts = Accounts.create(tmp_path, mesh="m", now=1000)
    accounts.shut_out({USER}, now=1000)
    accounts.revoke({USER: 9000.0}, now=1000)
    accounts.shut_out((), now=1001)
    assert set(Accounts.load(tmp_path, mesh="m", now=1002).revocations) == {USER}
