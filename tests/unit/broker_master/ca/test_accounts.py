import stat
from pathlib import Path

import pytest

from broker_client.runtime.nkeys import KeyPair
from broker_master.ca import accounts as module
from broker_master.ca.accounts import Accounts
from broker_master.ca.claims import decode_jwt
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
def test_lost_key_is_told_and_not_made_anew(tmp_path: Path, name: str) -> None:
    """A silent new key would lock out everyone whom the old one had signed for."""
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
