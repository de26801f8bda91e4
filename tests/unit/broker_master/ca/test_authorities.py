import time
from pathlib import Path

import pytest

from broker_client.runtime import failpoints
from broker_client.runtime.tls import make_csr, new_private_key
from broker_master.ca.authorities import Authorities
from broker_master.core.rotation import STEPS
from schemas.faults import Corrupt, Refused

NOW = int(time.time())
CSR = make_csr("web-1", new_private_key())


class Crash(Exception):
    pass


def signed(authorities: Authorities) -> bytes:
    return authorities.sign_client(CSR, "agent", "web-1", not_before=NOW, not_after=NOW + 60)


def walked(folder: Path, *steps: str) -> Authorities:
    authorities = Authorities.create(folder, "m1", now=NOW)
    for step in steps:
        authorities.rotate(step, now=NOW)
    return authorities


def test_signatures_of_both_are_known_while_both_are_trusted(tmp_path: Path) -> None:
    authorities = walked(tmp_path)
    first = signed(authorities)
    before = authorities.ca_pem
    authorities.rotate("prepare", now=NOW)
    assert authorities.signer_of(signed(authorities)) == 1
    assert authorities.ca_pem.startswith(before)
    assert authorities.ca_pem.count(b"BEGIN CERTIFICATE") == 2
    authorities.rotate("activate", now=NOW)
    second = signed(authorities)
    assert (authorities.signer_of(first), authorities.signer_of(second)) == (1, 2)
    authorities.rotate("taint", now=NOW)
    authorities.rotate("revoke", now=NOW)
    assert (authorities.signer_of(first), authorities.signer_of(second)) == (0, 2)
    assert authorities.ca_pem.count(b"BEGIN CERTIFICATE") == 1
    assert not (tmp_path / "ca.key").exists()


@pytest.mark.parametrize("count", range(5))
def test_each_stage_outlives_a_restart(tmp_path: Path, count: int) -> None:
    before = walked(tmp_path, *STEPS[:count])
    after = Authorities.load(tmp_path, "m1")
    assert after.rotation == before.rotation
    assert after.ca_pem == before.ca_pem == after.trusted_file.read_bytes()
    assert after.generation == before.generation
    assert Authorities.create(tmp_path, "m1", now=NOW).ca_pem == before.ca_pem


@pytest.mark.parametrize("place", ["master.ca_made", "master.ca_stepped"])
@pytest.mark.parametrize("count", range(4))
def test_a_step_that_was_cut_short_is_completed_by_the_same_step(
    tmp_path: Path, count: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = walked(tmp_path / "cut", *STEPS[:count])

    def crash(name: str) -> None:
        if name == place:
            raise Crash

    monkeypatch.setattr(failpoints, "reach", crash)
    reached = True
    try:
        authorities.rotate(STEPS[count], now=NOW)
        reached = False
    except Crash:
        pass
    assert reached or place == "master.ca_made", "the place is one of this step"
    monkeypatch.undo()
    again = Authorities.load(tmp_path / "cut", "m1")
    assert again.signer_of(signed(again)) == again.generation
    again.rotate(STEPS[count], now=NOW)
    expected = walked(tmp_path / "whole", *STEPS[: count + 1])
    assert again.rotation == expected.rotation
    assert again.trusted_file.read_bytes() == again.ca_pem
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert names == {path.name for path in expected.trusted_file.parent.iterdir()}


def test_another_mesh_and_a_damaged_state_are_refused(tmp_path: Path) -> None:
    walked(tmp_path, "prepare")
    with pytest.raises(Refused) as caught:
        Authorities.load(tmp_path, "m2")
    assert caught.value.code == "state_foreign"
    (tmp_path / "rotation.json").write_text('{"authority": {"active": "x"}}')
    with pytest.raises(Corrupt) as damaged:
        Authorities.load(tmp_path, "m1")
    assert damaged.value.code == "state_corrupt"
