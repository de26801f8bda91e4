"""Ctrl-C at random moments: each command that runs long has to end, whatever it was just doing."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from tests.harness import MeshProcesses, program

# One Ctrl-C ends each command within a second; the rest is for a host that is busy.
END_S: Final = 60.0
SITE: Final = b"Failed to import the site module"
# From the start of the interpreter to well into the work of the command.
MOMENTS_S: Final = (0.05, 2.5)
LONG: Final[dict[str, tuple[str, ...]]] = {
    "watch": ("agent", "list", "--watch", "--every", "0.05"),
    "top": ("top",),
    "events": ("events", "--follow"),
    "run": ("run", "--group", "web", "--", "sleep", "600"),
    "wait": ("command", "wait", "endless"),
    "logs": ("command", "logs", "endless", "--follow"),
    "fanout": ("run", "--all", "--group", "web", "--", "sleep", "600"),
}


async def interrupted(mesh: MeshProcesses, arguments: Sequence[str], after_s: float) -> int:
    """The exit code of a command that gets one SIGINT after a while."""
    process = subprocess.Popen(
        program("mesh", "--context", str(mesh.admin_context), *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=mesh.env,
    )
    try:
        await asyncio.sleep(after_s)  # not to wait for anything: the moment is what is tried
        process.send_signal(signal.SIGINT)
        _, said = await asyncio.to_thread(process.communicate, None, END_S)
    finally:
        process.kill()
        process.wait()
    sys.stderr.write(said.decode(errors="replace"))
    # The interpreter ends with 1 if it is interrupted before it has read its site packages.
    return -signal.SIGINT if SITE in said else process.returncode


async def storm(mesh: MeshProcesses, name: str, rounds: int, seed: int) -> None:
    """Interrupt one command so many times; each time it ends by the signal, or as interrupted."""
    chance = random.Random(f"{name}-{seed}")
    for number in range(rounds):
        after_s = chance.uniform(*MOMENTS_S)
        code = await interrupted(mesh, LONG[name], after_s)
        # 123: a task that the first signal has ended. -2: Python itself was still starting.
        assert code in {130, 123, -signal.SIGINT, 5}, f"{name}, {number}: {code} ({after_s:.3f} s)"
