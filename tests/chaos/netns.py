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

    async def spoil(self, *, loss: float, bits_per_s: int) -> None:
        """Lose this share of all packets, each way, and narrow the cable.

        The kernel sends the lost ones again, as on a real line. Raises RuntimeError where packet
        filters or queues cannot be set.
        """
        lose = ("-m", "statistic", "--mode", "random", "--probability", f"{loss}", "-j", "DROP")
        width = ("root", "tbf", "rate", f"{bits_per_s}bit", "burst", "4kb", "latency", "500ms")
        for name in ("iptables", "tc"):
            if shutil.which(name) is None:
                raise RuntimeError(f"{name} is missing")
        for chain in ("INPUT", "OUTPUT"):
            await _do(*self.inside(["iptables", "-A", chain, *lose]))
        await _do("tc", "qdisc", "add", "dev", self._here, *width)
        await _do(*self.inside(["tc", "qdisc", "add", "dev", self._there, *width]))

    async def dropped(self) -> int:
        """Number of packets lost so far."""
        told = await _do(*self.inside(["iptables", "-L", "-v", "-n", "-x"]))
        return sum(int(line.split()[0]) for line in told.splitlines() if " DROP " in line)

    async def unplug(self) -> None:
        await _ip("link", "set", self._here, "down")

    async def plug(self) -> None:
        await _ip("link", "set", self._here, "up")


async def _ip(*arguments: str) -> None:
    await _do("ip", *arguments)


async def _do(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(_STEP_S):
        told, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {said.decode(errors='replace').strip()}")
    return told.decode(errors="replace")
