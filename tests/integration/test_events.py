"""`mesh events` on a real mesh: what happens is followed, also across a restart of the master."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import MeshProcesses, program
from tests.meshes import mesh_fixture
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


mesh = mesh_fixture({"web": ("web-1",), "db": ("db-1",)})


class Follower:
    """`mesh events --follow` with JSON lines; `since` makes it independent of when it connects."""

    def __init__(self, mesh: MeshProcesses, *words: str) -> None:
        context = ("--context", str(mesh.admin_context), "--timeout", "30")
        self._process = subprocess.Popen(
            program("mesh", "events", *context, "--follow", "--output", "jsonl", *words),
            stdout=subprocess.PIPE,
            env=mesh.env,
            text=True,
        )

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """All events up to the first that is wanted."""
        found: list[dict[str, Any]] = []
        assert self._process.stdout is not None
        while not (found and wanted(found[-1])):
            reading = asyncio.to_thread(self._process.stdout.readline)
            line = await asyncio.wait_for(reading, PATIENCE_S)
            assert line, f"ended after {found}"
            found.append(json.loads(line))
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


async def test_follower_sees_a_run_a_drain_and_the_gap_of_a_restart(mesh: MeshProcesses) -> None:
    # Nothing else is of this filter before: the first line is of the run.
    follower = Follower(mesh, "--since", "1s", "name:run-*,web-1,web", "!kind:certificate")
    try:
        ran = await mesh.cli("run", "--group", "web", "--id", "run-1", "--", "false")
        assert ran.code != 0
        seen = await follower.until(lambda event: event["what"] == "failed")
        story = [(each["what"], each["client"]) for each in seen if each["name"] == "run-1"]
        assert story == [("submitted", "admin"), ("failed", "admin")]
        assert (seen[-1]["agent"], seen[-1]["group"]) == ("web-1", "web")
        assert (await mesh.cli("agent", "disable", "web-1", "--note", "disk")).code == 0
        seen = await follower.until(lambda event: event["kind"] == "group")
        (drained,) = [each for each in seen if each["kind"] == "agent"]
        assert (drained["was"], drained["what"], drained["cause"]) == (
            "active",
            "disabled",
            "disabled",
        )
        assert "disk" in drained["detail"]
        assert (seen[-1]["name"], seen[-1]["what"]) == ("web", "inactive")
        await mesh.restart_master(kill=True)
        assert (await mesh.cli("agent", "enable", "web-1")).code == 0
        seen = await follower.until(lambda event: event["what"] == "active")
        assert [each["what"] for each in seen if each["kind"] == "gap"] == ["restarted"]
        assert seen[0]["kind"] == "gap"
    finally:
        follower.close()


async def test_events_of_other_groups_are_not_shown(mesh: MeshProcesses) -> None:
    folder = mesh.directory / "eve"
    made = await mesh.cli(
        *("client", "create", "eve", "--role", "viewer", "--group", "db", "--out", str(folder))
    )
    assert made.code == 0, made.err
    for group in ("web", "db"):
        assert (
            await mesh.cli("run", "--group", group, "--id", f"in-{group}", "--", "true")
        ).code == 0
    shown = await mesh.cli("events", context=folder / "context.toml")
    assert shown.code == 0, shown.err
    assert "in-db" in shown.out
    assert "web" not in shown.out
    everything = await mesh.cli("events", "kind:command", "-o", "json")
    assert {each["name"] for each in everything.json} >= {"in-web", "in-db"}
    issued = await mesh.cli("events", "kind:certificate", "name:eve")
    assert "issued" in issued.out


async def test_wrong_words_are_named(mesh: MeshProcesses) -> None:
    wrong = await mesh.cli("events", "kind:agnet")
    assert (wrong.code, "agent" in wrong.err) == (2, True)
    as_json = await mesh.cli("events", "--follow", "-o", "json")
    assert (as_json.code, "jsonl" in as_json.err) == (2, True)
