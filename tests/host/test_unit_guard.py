"""The guard of `tests/unit` sees what a unit test must not do."""

import re
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_S

GUARD = Path(__file__).parent.parent / "unit" / "conftest.py"


ALLOWED = ("asyncio.run(asyncio.sleep(0))", "socket.socketpair()[0].send(b'x')")
FORBIDDEN = (
    "asyncio.run(asyncio.sleep(0.001))",
    "time.sleep(0.001)",
    "subprocess.run(['true'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "os.waitpid(os.fork() or os._exit(0), 0)",
    "socket.socket().bind(('127.0.0.1', 0))",
    "socket.getaddrinfo('127.0.0.1', 1)",
)


def test_unit_test_that_leaves_its_process_fails(tmp_path: Path) -> None:
    deeds = [*ALLOWED, *FORBIDDEN]
    tests = [f"def test_{number}():\n    {deed}\n" for number, deed in enumerate(deeds)]
    (tmp_path / "conftest.py").write_text(GUARD.read_text())
    modules = "import asyncio, os, socket, subprocess, time"
    (tmp_path / "test_it.py").write_text("\n".join([modules, *tests]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    failed = {int(each) for each in re.findall(r"^ERROR .*::test_(\d+)", done.stdout, re.MULTILINE)}
    assert failed == set(range(len(ALLOWED), len(deeds))), done.stdout
    assert done.stdout.count("AssertionError: no unit test: ") >= len(FORBIDDEN)
