"""Release 0.1.0 as processes: its masters, agents and clients, and the state that they leave.

with unpacked() as old:
    mesh = MeshProcesses(directory, env={**FAST_TIMERS, **old.env})   # all of it is old
    switch(mesh.agents["web-1"], old)                                 # from its next start on
    switch(mesh.agents["web-1"], None)                                # the code of now again
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.children import Child
from tests.harness import MeshProcesses

PACKAGES: Final = Path(__file__).parent / "data" / "release-0.1.0" / "packages.tar.xz"
SHA256: Final = "9d31ac8be63880d31a2a0beaf9aea9212028a75bf8eec069b72ff5e5c5412f4c"
START_S: Final = 60.0


@dataclass(frozen=True)
class OldRelease:
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Environment in which every program of ours, and its children, is of the old release."""
        return {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}

    def check(self) -> None:
        """Raise AssertionError unless this environment imports the old packages."""
        names = ("broker_agent.app", "broker_client.api", "broker_master.app", "schemas.codec")
        script = f"import {', '.join(names)}\nprint(*({'.__file__, '.join(names)}.__file__,))"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=START_S,
            check=True,
        )
        assert all(Path(each).is_relative_to(self.folder) for each in done.stdout.split())


@contextlib.contextmanager
def unpacked() -> Iterator[OldRelease]:
    """The packages in a folder of their own, removed afterwards."""
    assert hashlib.sha256(PACKAGES.read_bytes()).hexdigest() == SHA256, "another archive"
    with tempfile.TemporaryDirectory(prefix="mesh-0.1.0-") as folder:
        with tarfile.open(PACKAGES, "r:xz") as archive:
            archive.extractall(folder, filter="data")
        old = OldRelease(Path(folder))
        old.check()
        yield old


@contextlib.contextmanager
def programs_of(mesh: MeshProcesses, old: OldRelease | None) -> Iterator[None]:
    """In the block, command lines of `mesh` and agents that are added run this release."""
    before = dict(mesh.env)
    _put(mesh.env, old)
    try:
        yield
    finally:
        mesh.env.clear()
        mesh.env.update(before)


def switch(child: Child, old: OldRelease | None) -> None:
    """Release of the next start of a program; None is the code of now."""
    _put(child.env, old)


def is_old(child: Child, old: OldRelease) -> bool:
    """Whether the process that runs now was started with the old packages."""
    found = psutil.Process(child.pid).environ().get("PYTHONPATH", "")
    return found == str(old.folder)


def _put(env: dict[str, str], old: OldRelease | None) -> None:
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        env.pop(name, None)
    env.update(old.env if old is not None else {})
