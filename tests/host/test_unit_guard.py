"""The guard of `tests/unit` sees what a unit test must not do."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

GUARD = Path(__file__).parent.parent / "unit" / "conftest.py"


@pytest.mark.parametrize(
    ("deed", "is_allowed"),
    [
        ("asyncio.run(asyncio.sleep(0))", True),
        ("asyncio.run(asyncio.sleep(0.001))", False),
        ("time.sleep(0.001)", False),
        ("subprocess.run(['true'])", False),
        ("os.posix_spawn('/bin/true', ['true'], {})", False),
        ("os.waitpid(os.fork() or os._exit(0), 0)", False),
        ("socket.socket().bind(('127.0.0.1', 0))", False),
        ("socket.getaddrinfo('127.0.0.1', 1)", False),
    ],
)
def test_unit_test_that_leaves_its_process_fails(
    deed: str, tmp_path: Path, *, is_allowed: bool
) -> None:
    (tmp_path / "conftest.py").write_text(GUARD.read_text())
    modules = "import asyncio, os, socket, subprocess, time"
    (tmp_path / "test_it.py").write_text(f"{modules}\n\ndef test_it():\n    {deed}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode == 0) == is_allowed, done.stdout
    assert ("no unit test: " in done.stdout) != is_allowed, done.stdout
