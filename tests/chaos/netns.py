"""A network of its own for one agent: the kernel's way to lose packets, where we may use it."""

import asyncio
import shutil
import subprocess
from contextlib import suppress
from typing import Final, Self

# The mesh's certificates have to name it, so it is the same in every run: one at a time.
HOST: Final = "10.213.7.1"
GUEST: Final = "10.213.7.2"
_STEP_S: Final = 10.0


class Namespace:
    """Two ends of a cable, one here and one in a namespace of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._here, self._there = f"{name}h", f"{name}g"

    async def __aenter__(self) -> Self:
        """Raises RuntimeError where namespaces cannot be made."""
        if shutil.which("ip") is None:
            raise RuntimeError("ip is missing")
        with suppress(RuntimeError):
            await self._remove()
        await _ip("netns", "add", self.name)
        try:
            await _ip("link", "add", self._here, "type", "veth", "peer", "name", self._there)
            await _ip("link", "set", self._there, "netns", self.name)
            await _ip("addr", "add", f"{HOST}/30", "dev", self._here)
            await _ip("link", "set", self._here, "up")
            await _ip("-n", self.name, "addr", "add", f"{GUEST}/30", "dev", self._there)
            await _ip("-n", self.name, "link", "set", self._there, "up")
            await _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._remove()

    async def _remove(self) -> None:
        """Its end of the cable goes with it, and so does ours."""
        await _ip("netns", "del", self.name)

    def inside(self, argv: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *argv]

    async def unplug(self) -> None:
        await _ip("link", "set", self._here, "down")

    async def plug(self) -> None:
        await _ip("link", "set", self._here, "up")


async def _ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(_STEP_S):
        _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {said.decode(errors='replace').strip()}")
