"""The recorded session of the README: real commands on a real mesh, with their output.

A test records a session and compares the shapes.
"""

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Final

from tests.harness import FAST_TIMERS, STEP_S, MeshProcesses

BEGIN: Final = "<!-- session: made by make docs RECORD=1 -->"
END: Final = "<!-- end of session -->"
# The typed commands; the agents web-3 and then web-2 are stopped meanwhile.
COMMANDS: Final = (
    ("mesh", "group", "list"),
    ("mesh", "run", "--group", "db", "--", "echo", "hello from one agent"),
    (
        "mesh",
        "run",
        "--id",
        "patch",
        "--all",
        "--group",
        "web",
        "--batch",
        "1",
        "--",
        "echo",
        "patched",
    ),
    ("mesh", "fanout", "show", "patch"),
    ("mesh", "agent", "list", "!status:active"),
    ("mesh", "agent", "disable", "web-2", "--note", "new disk"),
    ("mesh", "run", "--detach", "--id", "long", "--agent", "web-1", "--", "sleep", "600"),
    ("mesh", "top", "--once"),
    ("mesh", "connection", "test", "shop"),
    ("mesh", "do", "shop", "sql.execute", "--arg", "sql=create table sale (day int)"),
    ("mesh", "do", "shop", "sql.execute", "--arg", "sql=insert into sale values (31)"),
    ("mesh", "do", "shop", "sql.query", "--arg", "sql=select * from sale"),
)
STARTED_S: Final = 60.0
VARYING: Final = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?"), "TIME"),
    (re.compile(r"\d\d:\d\d:\d\d(?: [+-]\d{4})?"), "TIME"),
    (re.compile(r"\b[0-9a-f]{16}(-\d+)?\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "HASH"),
    (re.compile(r"\d+(\.\d+)?( ?[smhd]\b| ms\b)( \d+s)?"), "SPAN"),
    (re.compile(r"\s+"), " "),
)


async def record() -> list[str]:
    """Return the lines of the session: each command after `$`, its output below."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mesh-session-") as folder:
        async with MeshProcesses(Path(folder), env=FAST_TIMERS) as mesh:
            for group, count in (("web", 3), ("db", 1)):
                await mesh.add_group(group)
                for number in range(1, count + 1):
                    name = f"{group}-{number}"
                    await mesh.add_agent(name, group=group, slots=4)
                    await mesh.wait_status(name, "active")
            await _connected(mesh)
            mesh.agents["web-3"].kill()
            await _wait_lost(mesh, "web-3")
            for command in COMMANDS:
                lines += await _typed(mesh, command)
                if "--detach" in command:
                    await _wait_running(mesh, "web-1")
            await mesh.cli("command", "cancel", "long")
    return lines


async def _connected(mesh: MeshProcesses) -> None:
    """Make the connection `shop`, to an empty database on the host of db-1."""
    base = mesh.agent_dir("db-1")
    (base / "shop.db").touch()
    (base / "profiles.d").mkdir()
    text = f'kind = "sqlite"\nfile = "{base}/shop.db"\naccess = "write"\n'
    (base / "profiles.d" / "shop.toml").write_text(text)
    await mesh.cli("connection", "create", "shop", "--group", "db", "--kind", "sqlite")
    async with mesh.client() as client, asyncio.timeout(STARTED_S):
        while not any(each.status == "active" for each in await client.connections()):
            await asyncio.sleep(STEP_S)


async def _wait_running(mesh: MeshProcesses, name: str) -> None:
    """Wait until the agent's own heartbeat reports it."""
    async with mesh.client() as client, asyncio.timeout(STARTED_S):
        while not any(each.agent == name and each.running for each in await client.agents()):
            await asyncio.sleep(STEP_S)


async def _wait_lost(mesh: MeshProcesses, name: str) -> None:
    """Wait until the master counts the agent as lost, so that the reason is always the same."""
    async with mesh.client() as client, asyncio.timeout(STARTED_S):
        while not any(
            each.agent == name and each.reason.startswith("lost") for each in await client.agents()
        ):
            await asyncio.sleep(STEP_S)


async def _typed(mesh: MeshProcesses, command: tuple[str, ...]) -> list[str]:
    words = (f"'{word}'" if re.search(r"[ !*<>]", word) else word for word in command)
    ran = await mesh.cli(*command[1:])
    said = [line.rstrip() for line in (ran.out + ran.err).splitlines()]
    code = ["$ echo $?", str(ran.code)] if ran.code else []
    return [f"$ {' '.join(words)}", *said, *code]


def shape(lines: list[str]) -> list[str]:
    """Return the lines without parts that differ from run to run."""
    found = []
    for line in lines:
        for pattern, word in VARYING:
            line = pattern.sub(word, line)  # noqa: PLW2901  (one after the other)
        found.append(line.strip())
    return [line for line in found if line]


def shown(text: str) -> list[str]:
    """Return the session as it is in a page."""
    block = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    return block[1:-1]


def rewritten(page: str, lines: list[str]) -> str:
    """Return `page` with `lines` as its session."""
    before, _, rest = page.partition(BEGIN)
    block = "\n".join(["```text", *lines, "```"])
    return f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}"
