import time
from pathlib import Path

import pytest

from broker_client.runtime import failpoints
from broker_client.runtime.context import Context, read_context, write_context
from broker_client.runtime.context_files import ContextFiles
from broker_client.runtime.identity import NewIdentity, new_identity, write_identity
from broker_master.ca.issuer import Credentials, Issuer
from schemas.faults import Corrupt, MeshError
from tests.unit.broker_master.ca.meshes import MESH, made_issuer

NOW = int(time.time())


class Crash(Exception):
    pass


def issued(issuer: Issuer, life_s: int = 3600) -> tuple[NewIdentity, Credentials]:
    keys = new_identity("ann")
    return keys, issuer.issue("viewer", "ann", keys.csr_pem, keys.user, NOW + life_s)


def made(folder: Path, issuer: Issuer) -> tuple[ContextFiles, NewIdentity]:
    keys, credentials = issued(issuer)
    write_identity(
        folder,
        keys,
        cert_pem=credentials.cert_pem,
        ca_pem=credentials.ca_pem,
        jwt=credentials.jwt,
    )
    path = folder / "context.toml"
    write_context(path, Context(mesh=MESH, name="ann", role="viewer", urls=("tls://h:1",)))
    return ContextFiles(read_context(path)), keys


def renewed(files: ContextFiles, issuer: Issuer) -> str:
    keys, credentials = issued(issuer)
    with files.lock():
        files.store(
            keys,
            cert_pem=credentials.cert_pem,
            ca_pem=credentials.ca_pem,
            jwt=credentials.jwt,
        )
    files.clear()
    return keys.user


def test_renewed_files_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    issuer = made_issuer(NOW)
    files, _ = made(tmp_path, issuer)
    before = {path.name for path in tmp_path.iterdir()}
    user = renewed(files, issuer)
    assert files.identity().claims.user == user
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("place", ["client.renewed_staged", "client.renewed_half"])
def test_readers_see_one_whole_identity_after_a_crash_and_the_next_completes_it(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = made_issuer(NOW)
    files, old = made(tmp_path, issuer)

    def crash(name: str) -> None:
        if name == place:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "reach", crash)
        with pytest.raises(Crash):
            renewed(files, issuer)
    user = files.identity().claims.user
    assert user != old.user
    with files.lock():
        pass
    files.clear()
    assert files.identity().claims.user == user
    assert not (tmp_path / "user.creds.new").exists()


def test_only_one_renews_at_a_time(tmp_path: Path) -> None:
    files, _ = made(tmp_path, made_issuer(NOW))
    with files.lock(), pytest.raises(MeshError) as caught, files.lock():
        pass
    assert caught.value.code == "state_locked"


def test_certificate_of_no_authority_is_not_trusted(tmp_path: Path) -> None:
    files, _ = made(tmp_path, made_issuer(NOW))
    before = files.ca_pem()
    with pytest.raises(Corrupt):
        files.trust(b"nonsense")
    assert files.ca_pem() == before


def test_renewal_is_due_after_two_thirds_of_the_life(tmp_path: Path) -> None:
    files, _ = made(tmp_path, made_issuer(NOW))
    claims = files.claims()
    life_s = claims.expires_at - claims.not_before
    assert not files.is_due(claims, claims.not_before + life_s * 0.66)
    assert files.is_due(claims, claims.not_before + life_s * 0.67)
