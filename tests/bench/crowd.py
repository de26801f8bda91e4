"""A process of light agents for the benchmark of scale: runs until it is ended.

python -m tests.bench.crowd --state-dir D --url tls://… --group bench --start 0 --count 1000
"""

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from broker_client.runtime.logs import configure_logs
from broker_master.ca.mesh import open_mesh
from broker_master.embedded import EmbeddedBroker
from schemas.timers import Timers
from tests.chaos.light import LightAgent
from tests.chaos.witness import Witness
from tests.servers import MeshBroker


class _Address(msgspec.Struct):
    url: str


class _Blind(Witness):
    """What runs is of no interest here."""

    def __init__(self) -> None:
        pass

    def note(self, *_: object, **__: object) -> None:
        pass


async def _main(options: argparse.Namespace) -> None:
    broker = cast("EmbeddedBroker", _Address(options.url))
    issuer = MeshBroker(open_mesh(options.state_dir), broker)
    beat_s = Timers().beat_s
    async with contextlib.AsyncExitStack() as stack:
        for number in range(options.start, options.start + options.count):
            issued = issuer.issue("agent", f"light-{number}", group=options.group)
            light = LightAgent(options.group, _Blind(), issued, beat_s)
            await stack.enter_async_context(light)
            await asyncio.sleep(0)
        await asyncio.Event().wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    configure_logs("error")
    uvloop.install()
    asyncio.run(_main(_options()))
