"""Every command block of the README, typed into one shell in the order of the page."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.servers import server_binary
from tests.waiting import eventually

pytestmark = pytest.mark.integration

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
STEP_S: Final = 60.0
STOP_S: Final = 60.0
# Blocks that change the machine, take minutes, or are run by another test.
MAY_BE_LEFT_OUT: Final = re.compile(r"\$ (apt install|make demo|make test|python3 -m pip wheel)\b")
ANYTHING: Final = "…"
# What differs from run to run, on both sides of the comparison.
VARYING: Final = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?"), "TIME"),
    (re.compile(r"\(\d\d:\d\d:\d\d UTC\)"), "(TIME)"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b[0-9a-f]{16}(-\d+)?\b"), "ID"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"/\S*/mesh\b"), "MESH"),
    (re.compile(r"\b\d+/\d+\b"), "n/m"),
    (re.compile(r"\s+"), " "),
)


@dataclass
class Block:
    """A fenced block: its language, its lines, where it begins, and why it may not be run."""

    language: str
    lines: list[str]
    at: int
    reason: str

    def steps(self) -> Iterator[tuple[str, list[str]]]:
        """Each command of a console block with the output shown below it."""
        command, shown = "", list[str]()
        for line in self.lines:
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            elif command.endswith(("\\", "|")) and not shown:
                command += "\n" + line
            else:
                shown.append(line)
        if command:
            yield command, shown


def blocks_of(text: str) -> list[Block]:
    blocks: list[Block] = []
    reason, language, lines, began_at = "", None, list[str](), 0
    for number, line in enumerate(text.splitlines(), 1):
        if language is not None:
            if line == "```":
                blocks.append(Block(language, lines, began_at, reason))
                language, reason = None, ""
            else:
                lines.append(line)
        elif line.startswith("```"):
            language, lines, began_at = line[3:], [], number
        elif line.startswith("<!-- not run: "):
            reason = line.removeprefix("<!-- not run: ").removesuffix(" -->")
    return blocks


def plain(line: str) -> str:
    for pattern, word in VARYING:
        line = pattern.sub(word, line)
    return line.strip()


class Session:
    """One bash that we type into, its output on a terminal of 80 columns."""

    def __init__(self, folder: Path) -> None:
        self._said = bytearray()
        self._read = 0
        self._steps = 0
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        self._screen, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        try:
            self.shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=ROOT,
                env=_environment(folder),
                stdin=subprocess.PIPE,
                stdout=screen,
                stderr=screen,
                start_new_session=True,
            )
        finally:
            os.close(screen)
        asyncio.get_running_loop().add_reader(self._screen, self._take)

    def _take(self) -> None:
        try:
            self._said += os.read(self._screen, 65_536)
        except OSError:  # the last process that had the terminal is gone
            asyncio.get_running_loop().remove_reader(self._screen)

    async def type(self, command: str) -> tuple[int, str]:
        """Its exit code and what appeared; a background command is waited for until it is ready."""
        self._steps += 1
        mark = f"step-{self._steps}-ended"
        stdin = self.shell.stdin
        assert stdin is not None
        # `$?` of the command is put back, for a line that asks for it.
        after = f"__code=$?; printf '\\n{mark} %s\\n' $__code; (exit $__code)"
        stdin.write(f"{command}\n{after}\n".encode())
        stdin.flush()
        ended = re.compile(rf"\n{mark} (\d+)\n")
        await eventually(lambda: ended.search(self._new()), STEP_S, what=command)
        if command.endswith("&"):
            await eventually(lambda: "ready " in self._new(), STEP_S, what=f"ready: {command}")
        text = self._new()
        self._read = len(self._said)
        found = ended.search(text)
        assert found is not None
        return int(found[1]), text.replace(found[0], "\n")

    def _new(self) -> str:
        return self._said[self._read :].decode(errors="replace").replace("\r\n", "\n")

    def where(self) -> Path:
        return Path(f"/proc/{self.shell.pid}/cwd").readlink()

    async def end(self) -> None:
        """All its processes are in its process group, except brokers: masters end brokers."""
        group = self.shell.pid
        assert self.shell.stdin is not None
        self.shell.stdin.close()
        try:
            os.killpg(group, signal.SIGTERM)
            self.shell.wait(STOP_S)
            await eventually(lambda: not is_group_alive(group), STOP_S, what="end of the session")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            asyncio.get_running_loop().remove_reader(self._screen)
            os.close(self._screen)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
    return {
        **kept,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
        "TERM": "xterm",
        "TZ": "UTC",
        # The page uses the default ports, which others here may use as well.
        "MESH_NATS_PORT": "0",
        "MESH_HTTP": "127.0.0.1:0",
    }


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    server_binary()
    if shutil.which("bash") is None:
        pytest.skip("bash is missing: apt install bash")
    session = Session(tmp_path)
    yield session
    await session.end()


def is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


async def test_every_command_block_does_what_the_page_shows(session: Session) -> None:
    for block in blocks_of(README.read_text()):
        if block.reason or block.language not in ("console", "bash", "python"):
            continue
        if block.language == "python":
            name = block.lines[0].removeprefix("# ")
            (session.where() / name).write_text("\n".join(block.lines))
            continue
        assert block.language == "console", f"README.md:{block.at}: use console, not bash"
        steps = list(block.steps())
        assert steps, f"README.md:{block.at}: a console block without a command"
        for index, (command, shown) in enumerate(steps):
            code, said = await session.type(command)
            place = f"README.md:{block.at}: {command}\n{said}"
            asked = [following for following, _ in steps[index + 1 : index + 2]]
            assert code == 0 or asked == ["echo $?"], f"exit code {code}\n{place}"
            check_shown(shown, said, place)


def check_shown(shown: list[str], said: str, place: str) -> None:
    """The page shows the whole output, except where it has an ellipsis."""
    got = "".join(f"{plain(line)}\n" for line in said.splitlines() if line.strip())
    wanted = "".join(
        r"(.*\n)*" if line == ANYTHING else rf"{re.escape(plain(line))}\n"
        for line in shown
        if line.strip()
    )
    assert re.fullmatch(wanted, got), f"the page shows\n{chr(10).join(shown)}\n{place}"


def test_only_blocks_that_other_tests_cover_are_left_out() -> None:
    left_out = [block for block in blocks_of(README.read_text()) if block.reason]
    assert left_out
    for block in left_out:
        assert MAY_BE_LEFT_OUT.match(block.lines[0]), f"README.md:{block.at}: {block.lines[0]}"


def test_pages_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (ROOT / name).is_file(), name
