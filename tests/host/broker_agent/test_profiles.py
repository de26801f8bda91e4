"""Profiles of a host: read from files, kept while a file is broken, told to the master."""

import asyncio
import contextlib
import os
from pathlib import Path

import psutil
import pytest

from broker_agent.services import profiles, trial
from broker_agent.settings import AgentSettings, ConnectorSettings
from schemas.faults import Refused
from schemas.messages.liveness import Beat, Echo, Profiles, ProfileStatus
from tests.host.broker_agent.rig import Rig
from tests.plugins import KIND, install_plugin
from tests.waiting import eventually

GOOD = 'kind = "gauge"\nhost = "127.0.0.1"\npassword = { plain = "canary-of-profiles" }\n'
PROFILES = "mesh.v1.up.g1.a1.profiles"
BEAT = "mesh.v1.up.g1.a1.beat"


class Host:
    """An agent with two folders of profiles, of which it looks every 50 ms."""

    def __init__(self, path: Path) -> None:
        self.etc = path / "etc"
        self.own = path / "state" / "profiles.d"
        for folder in (self.etc, self.own):
            folder.mkdir(parents=True, mode=0o755)
        self.rig = Rig(
            path / "state",
            settings=AgentSettings(
                disk_free=0.0,
                profiles_dir=str(self.etc),
                profiles_s=0.05,
                connectors=ConnectorSettings(plugins=(KIND,)),
            ),
        )
        self.profiles = self.rig.parts.work.profiles

    def put(self, name: str, text: str, *, own: bool = True, mode: int = 0o600) -> Path:
        """Put a file in place whole, as an editor does."""
        folder = self.own if own else self.etc
        fresh = folder / f".{name}.new"
        fresh.write_text(text)
        fresh.chmod(mode)
        path = folder / f"{name}.toml"
        fresh.rename(path)
        return path

    @property
    def told(self) -> dict[str, ProfileStatus]:
        """Answer of the agent to the master's request."""
        self.rig.send("echo", Echo(epoch=1, incarnation=self.rig.lease.incarnation, seq=1))
        before = len(self.rig.wire.sent(Profiles, PROFILES))
        self.rig.heartbeats.send()
        seq = self.rig.lease.seq
        self.rig.send(
            "echo",
            Echo(epoch=1, incarnation=self.rig.lease.incarnation, seq=seq, profiles=True),
        )
        found = self.rig.wire.sent(Profiles, PROFILES)
        assert len(found) == before + 1, "told once for each time that it is asked for"
        assert found[-1].digest == self.rig.wire.sent(Beat, BEAT)[-1].profiles
        return {each.name: each for each in found[-1].items}

    def problem(self, name: str) -> str:
        return next((each.problem for each in self.profiles.book if each.name == name), "")


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]  # noqa: ANN201
    for name, value in install_plugin(tmp_path / "site").items():
        monkeypatch.setenv(name, value)
    made = Host(tmp_path)
    made.rig.link()
    yield made
    await made.rig.close()


async def test_master_is_told_of_a_profile_without_its_secret(host: Host) -> None:
    host.put("scale", GOOD)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    told = host.told["scale"]
    assert (told.state, told.kind, told.problem) == ("ok", "gauge", "")
    assert told.shape == "host=127.0.0.1 password={plain}"
    assert told.actions == ["gauge.read"]
    assert told.hash == host.profiles.find("scale").hash
    assert not any(b"canary-of-profiles" in data for _, data in host.rig.wire.published)


async def test_broken_file_leaves_the_last_good_one_in_use(host: Host) -> None:
    path = host.put("scale", GOOD)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    before = host.profiles.find("scale")
    host.put("scale", GOOD + 'mdoe = "fast"\n')
    await eventually(lambda: bool(host.problem("scale")))
    assert host.profiles.find("scale") == before
    told = host.told["scale"]
    assert (told.state, told.hash) == ("ok", before.hash)
    assert told.problem.startswith(f"{path}:4: ")
    assert "'mdoe'" in told.problem
    host.put("scale", GOOD + 'mode = "fast"\n')
    await eventually(lambda: not host.problem("scale"))
    assert host.profiles.find("scale").hash != before.hash


async def test_profile_that_was_never_good_has_its_problem(host: Host) -> None:
    host.put("scale", "kind = \n")
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    with pytest.raises(Refused, match=r"scale\.toml:1: not TOML") as refused:
        host.profiles.find("scale")
    assert refused.value.code == "profile_problem"
    assert host.told["scale"].state == "problem"
    with pytest.raises(Refused, match="scale") as unknown:
        host.profiles.find("scal")
    assert unknown.value.code == "profile_unknown"


async def test_profile_whose_file_is_removed_is_gone(host: Host) -> None:
    path = host.put("scale", GOOD)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    await asyncio.to_thread(path.unlink)
    await eventually(lambda: not host.profiles.digest)
    with pytest.raises(Refused):
        host.profiles.find("scale")


async def test_same_name_in_both_folders_is_a_problem(host: Host) -> None:
    host.put("scale", GOOD)
    host.put("scale", GOOD, own=False)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    problem = host.problem("scale")
    assert str(host.etc) in problem
    assert str(host.own) in problem
    assert host.told["scale"].state == "problem"


async def test_change_is_told_with_the_next_beat_at_once(host: Host) -> None:
    host.put("scale", GOOD)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    digest = host.profiles.digest
    beats = len(host.rig.wire.sent(Beat, BEAT))
    host.put("scale", GOOD.replace("127.0.0.1", "127.0.0.2"))
    await eventually(lambda: host.profiles.digest != digest)
    sent = host.rig.wire.sent(Beat, BEAT)
    assert len(sent) > beats
    assert sent[-1].profiles == host.profiles.digest


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o644, "others can read it (mode 644)"), (0o662, "others can write it (mode 662)")],
)
async def test_sec_s38_file_that_others_may_touch_is_not_used(
    host: Host, mode: int, said: str
) -> None:
    host.put("scale", GOOD, mode=mode)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    assert said in host.problem("scale")
    assert host.told["scale"].state == "problem"


async def test_sec_s38_folder_that_others_may_write_is_not_used(host: Host) -> None:
    host.put("scale", GOOD, own=False)
    host.etc.chmod(0o777)
    host.rig.serve(host.profiles)
    await eventually(lambda: host.profiles.looks > 1)
    assert not host.profiles.digest
    assert any("others can write it" in stray for stray in host.profiles.strays)


async def test_folder_that_is_opened_to_others_leaves_the_last_good_one_in_use(host: Host) -> None:
    host.put("scale", GOOD, own=False)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    before = host.profiles.find("scale")
    host.etc.chmod(0o777)
    await eventually(lambda: bool(host.problem("scale")))
    assert host.profiles.find("scale") == before
    host.put("scale", GOOD.replace("127.0.0.1", "127.0.0.9"), own=False)
    looks = host.profiles.looks
    await eventually(lambda: host.profiles.looks > looks + 1)
    assert host.profiles.find("scale") == before, "what others may have written is not used"
    host.etc.chmod(0o755)
    await eventually(lambda: not host.problem("scale"))
    assert host.profiles.find("scale").hash != before.hash


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_sec_s38_file_of_another_user_is_not_used(host: Host) -> None:
    os.chown(host.put("scale", GOOD), 65_534, 65_534)
    host.rig.serve(host.profiles)
    await eventually(lambda: bool(host.profiles.digest))
    assert "neither root nor the agent's user" in host.problem("scale")


async def test_plug_in_that_hangs_or_forks_holds_up_its_own_profile_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "CHECK_S", 1.0)
    monkeypatch.setattr(profiles, "FIRST_S", 0.05)
    host.put("hangs", GOOD.replace("127.0.0.1", "loops"))
    host.put("forks", GOOD.replace("127.0.0.1", "forks"))
    host.put("scale", GOOD)
    ready = asyncio.Event()
    service = asyncio.ensure_future(host.profiles.run(ready))
    await ready.wait()
    assert not host.profiles.looks, "the start of the agent does not wait"
    await eventually(lambda: bool(host.profiles.looks))
    assert "has not answered" in host.problem("hangs")
    assert {*host.profiles.in_use} == {"forks", "scale"}
    assert not host.rig.parts.work.profiles.problems.keys() - {"hangs"}
    left = [each for each in psutil.Process().children(recursive=True) if is_trial(each)]
    assert not left
    service.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await service


def is_trial(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "broker_agent.connectors.trial" in process.cmdline()
    return False
