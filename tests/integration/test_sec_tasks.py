"""An agent that is root and sets nothing: its tasks are another user's, who can do it no harm."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_agent.executors.account import OWN
from broker_client.api import MeshClient
from schemas.messages.actions import ProcessArgs
from tests.harness import MeshProcesses
from tests.meshes import shared_mesh

pytestmark = [
    pytest.mark.integration,
    pytest.mark.xdist_group("mesh-sec-tasks"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user for its tasks"),
]


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshProcesses]:
    """In a folder that other users may pass, as that of a service is."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        env = {"MESH_TASKS__USER": "", "OF_CALLER": "from here"}
        with shared_mesh(folder, {"web": ("web-1",)}, env=env) as running:
            yield running


async def run(admin: MeshClient, script: str) -> tuple[int | None, str]:
    record = await admin.run(ProcessArgs(argv=["/bin/sh", "-c", script]), group="web")
    told = record.output
    assert told is not None
    return record.attempts[-1].exit_code, (told.stdout + told.stderr).decode()


async def test_sec_s35_tasks_of_root_run_as_another_user_by_default(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    code, printed = await run(admin, 'id -un; cd "$PWD" && echo new > file && cat "$PWD/file"')
    name, *rest = printed.split()
    assert (code, rest) == (0, ["new"])
    assert name in OWN
    assert "tasks_run_as_another_user" in mesh.agents["web-1"].stderr


async def test_sec_s35_task_reads_neither_identity_nor_journal_nor_others_output(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    state = mesh.agent_dir("web-1")
    _, _ = await run(admin, "echo of another task")
    logs = [path for path in state.glob("tasks/**/*.log") if path.stat().st_size]
    assert logs
    secrets = [
        *(state / "identity" / "current").iterdir(),
        *(state / name for name in ("journal.db", "journal.db-wal", "lock")),
        *logs,
    ]
    for path in secrets:
        assert path.exists()
        code, printed = await run(admin, f"cat {path}")
        assert (code, "ermission denied" in printed) == (1, True), (path, printed)
    for folder in (state, state / "tasks", state / "identity"):
        assert (await run(admin, f"ls {folder}"))[0] != 0, folder
        assert (await run(admin, f"touch {folder}/mine"))[0] != 0, folder


async def test_sec_s35_task_can_neither_signal_nor_look_into_its_agent(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    pid = mesh.agents["web-1"].pid
    for script in (f"kill -9 {pid}", f"cat /proc/{pid}/environ", f"ls /proc/{pid}/fd"):
        assert (await run(admin, script))[0] != 0, script
    for thread in Path(f"/proc/{pid}/task").iterdir():
        assert (await run(admin, f"kill -9 {thread.name}"))[0] != 0


async def test_doctor_says_whose_the_tasks_are_and_how_they_end(mesh: MeshProcesses) -> None:
    where = ("--state-dir", str(mesh.agent_dir("web-1")), "--output", "json")
    ran = await mesh._run("broker-agent", "doctor", *where)
    found = {each["check"]: each for each in ran.json["findings"]}
    assert found["user of tasks"]["state"] == "ok"
    assert found["user of tasks"]["found"].endswith("who can read nothing of the agent")
    assert found["mode"]["state"] == "ok"
    assert "control group" in found["ends of tasks"]["found"]
    mesh.env["MESH_TASKS__USER"] = "root"
    try:
        ran = await mesh._run("broker-agent", "doctor", *where)
    finally:
        mesh.env["MESH_TASKS__USER"] = ""
    found = {each["check"]: each for each in ran.json["findings"]}
    assert found["user of tasks"]["state"] == "warning"
    assert "can become this agent" in found["user of tasks"]["cause"]


async def test_value_of_the_callers_own_environment_is_passed_on(mesh: MeshProcesses) -> None:
    show = ("--", "/bin/sh", "-c", 'echo "$OF_CALLER|$OTHER"')
    ran = await mesh.cli("run", "--group", "web", "--env", "OF_CALLER", "--env", "OTHER=x", *show)
    assert (ran.code, ran.out) == (0, "from here|x\n")
    ran = await mesh.cli("run", "--group", "web", "--env", "OF_NOBODY", *show)
    assert ran.code == 2
    assert "'OF_NOBODY' is not set here" in ran.err
