"""`broker-agent` as a person meets it when something is wrong: one line, the right code."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from broker_agent.store.identity_slots import AgentFacts, IdentitySlots
from broker_client.runtime.identity import new_identity
from schemas.faults import Refused

pytestmark = pytest.mark.integration

FACTS = AgentFacts(
    agent="web-1",
    group="web",
    mesh="m1",
    urls=("tls://127.0.0.1:1",),
    serial="1f",
    not_after=1.9e9,
)


def broker_agent(
    *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from broker_agent.cli import main; main()", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder as `setup` leaves it; its certificate is no certificate."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    enrol(state, FACTS)
    return state


def enrol(state: Path, facts: AgentFacts) -> None:
    slots = IdentitySlots(state)
    keys = new_identity(facts.agent)
    slots.begin(keys)
    assert slots.pending() == keys
    slots.complete(keys, facts, cert_pem=b"cert", ca_pem=b"ca", jwt="jwt")
    assert slots.pending() is None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_identity_is_private_and_complete(state: Path) -> None:
    current = state / "identity" / "current"
    assert names(state / "identity") == ["current"]
    assert names(current) == ["ca.pem", "cert.pem", "identity.toml", "key.pem", "user.creds"]
    for name in ("key.pem", "user.creds", "identity.toml"):
        assert (current / name).stat().st_mode & 0o777 == 0o600
    assert current.stat().st_mode & 0o777 == 0o700
    assert IdentitySlots(state).facts() == FACTS


def test_new_identity_takes_the_place_of_the_old_one(state: Path) -> None:
    newer = msgspec.structs.replace(FACTS, serial="2a")
    enrol(state, newer)
    assert IdentitySlots(state).facts() == newer
    assert names(state / "identity") == ["current"]


def test_whole_next_slot_is_used_after_a_crash_between_the_renames(state: Path) -> None:
    identity = state / "identity"
    (identity / "current").rename(identity / "next")
    assert IdentitySlots(state).facts() == FACTS
    IdentitySlots(state).swap_in()
    assert names(identity) == ["current"]


def test_damaged_identity_is_said(state: Path) -> None:
    (state / "identity" / "current" / "identity.toml").write_text("agent = 1")
    done = broker_agent("run", "--state-dir", str(state))
    assert done.returncode == 78
    assert "state_corrupt" in done.stderr


@pytest.mark.parametrize("command", ["run", "status"])
@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_place_without_an_agent_ends_with_78_and_stays_as_it_was(
    tmp_path: Path, command: str, place: str
) -> None:
    path = tmp_path / place
    if place == "empty":
        path.mkdir()
    elif place == "file":
        path.write_text("mine")
    done = broker_agent(command, "--state-dir", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    assert [line[:2] == "  " for line in done.stderr.splitlines()] == [False, True]
    assert str(path) in done.stderr
    assert names(tmp_path) == ([] if place == "missing" else [place])
    assert place != "empty" or names(path) == []


def test_state_of_a_running_agent_is_locked(state: Path) -> None:
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = broker_agent("run", "--state-dir", str(state))
        shown = broker_agent("status", "--state-dir", str(state), "--output", "json")
    assert done.returncode == 75
    assert "state_locked" in done.stderr
    assert [line[:2] == "  " for line in done.stderr.splitlines()] == [False, True]
    assert json.loads(shown.stdout)["running"] is True


def test_status_of_an_agent_that_does_not_run(state: Path) -> None:
    done = broker_agent("status", "--state-dir", str(state), "--output", "json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert {name: facts[name] for name in ("agent", "group", "mesh", "running", "pid")} == {
        "agent": "web-1",
        "group": "web",
        "mesh": "m1",
        "running": False,
        "pid": None,
    }
    table = broker_agent("status", "--state-dir", str(state))
    assert "web-1" in table.stdout


def test_journal_of_something_else_is_refused_and_kept(state: Path) -> None:
    (state / "journal.db").write_bytes(b"somebody's file" * 100)
    done = broker_agent("run", "--state-dir", str(state))
    assert done.returncode == 78
    assert "state_corrupt" in done.stderr
    assert (state / "journal.db").read_bytes() == b"somebody's file" * 100


@pytest.mark.parametrize("token", ["", "nonsense", "mesh1.AAAA", "x" * 20_000])
def test_bad_token_ends_with_77_and_leaves_nothing(tmp_path: Path, token: str) -> None:
    done = broker_agent("setup", "--state-dir", str(tmp_path / "new"), "--token", "-", stdin=token)
    assert (done.returncode, done.stdout) == (77, "")
    assert [line[:2] == "  " for line in done.stderr.splitlines()] == [False, True]
    assert token == "" or token not in done.stderr
    assert names(tmp_path) == []


def test_bad_settings_are_all_named_in_one_line(state: Path) -> None:
    env = {"MESH_TIMERS__BEAT_S": "x", "MESH_TIMERS__LOST_S": "1"}
    done = broker_agent("run", "--state-dir", str(state), "--slots", "-1", env=env)
    assert done.returncode == 78
    assert [line[:2] == "  " for line in done.stderr.splitlines()] == [False, True]
    assert "slots" in done.stderr
    assert "beat_s" in done.stderr


def test_timers_that_cannot_keep_the_promise_are_refused(state: Path) -> None:
    env = {"MESH_TIMERS__LOST_S": "20"}
    done = broker_agent("run", "--state-dir", str(state), env=env)
    assert done.returncode == 78
    assert "lost_s" in done.stderr


def test_print_config_shows_each_value_and_where_it_came_from(state: Path) -> None:
    env = {"MESH_TIMERS__BEAT_S": "0.5"}
    done = broker_agent("run", "--state-dir", str(state), "--slots", "3", "--print-config", env=env)
    assert done.returncode == 0
    lines = {line.split(" = ")[0]: line for line in done.stdout.splitlines()}
    assert lines["slots"].endswith("# flag --slots")
    assert lines["timers.beat_s"].endswith("# environment MESH_TIMERS__BEAT_S")
    assert lines["drain_s"].endswith("# default")


def test_slots_without_an_identity_say_so(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        IdentitySlots(tmp_path).identity()
    assert caught.value.code == "state_missing"


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_host_without_proc_is_said_at_once(state: Path, command: str) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can take /proc away")
    script = 'mount -t tmpfs none /proc && exec "$@"'
    ran = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c"),
            *("from broker_agent.cli import main; main()", command, "--state-dir", str(state)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = ran.stderr if command == "run" else ran.stdout
    assert ran.returncode == (78 if command == "run" else 1), ran
    assert "/proc is not mounted" in said
