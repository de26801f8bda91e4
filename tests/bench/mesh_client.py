"""A client of the mesh under load, as a process of its own: prints one line of JSON.

python -m tests.bench.mesh_client noop --context admin.toml --group web --count 1000
"""

import argparse
import asyncio
import hashlib
import time
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from broker_client.api import MeshClient
from broker_client.runtime.logs import configure_logs
from schemas.messages.actions import NoopArgs
from tests.bench.load import Latencies, print_result, run_load

PROGRAM: Final = "/bin/true"
# Proof that output comes with the result; `true` itself has none.
TALKER: Final = ("/bin/echo", "hello")


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """Output as it was read; seconds from the submission to the last byte."""

    size_bytes: int
    sha256: str
    seconds: float


async def noop(mesh: MeshClient, group: str, count: int, in_flight: int) -> Latencies:
    arguments = NoopArgs()

    async def run_one() -> None:
        record = await mesh.run(arguments, group=group)
        if record.state != "succeeded":
            raise RuntimeError(f"command {record.id} ended as {record.state}: {record.reason}")

    return await run_load(run_one, count=count, in_flight=in_flight)


async def process(mesh: MeshClient, group: str, count: int, in_flight: int) -> Latencies:
    told = await mesh.run(TALKER, group=group)
    if told.output is None or told.output.stdout != b"hello\n":
        raise RuntimeError(f"the output did not come with the result: {told}")

    async def run_one() -> None:
        record = await mesh.run([PROGRAM], group=group)
        if record.state != "succeeded":
            raise RuntimeError(f"command {record.id} ended as {record.state}: {record.reason}")

    return await run_load(run_one, count=count, in_flight=in_flight)


async def copy(mesh: MeshClient, group: str, source: str) -> Copied:
    """Run a task that prints `source`, and read its output as it comes."""
    digest = hashlib.sha256()
    size = 0
    began = time.perf_counter()
    answer = await mesh.submit(["/bin/cat", source], group=group)
    async for part in mesh.logs(answer.id, follow=True):
        if part.offset != size or part.cut or part.stream != "stdout":
            raise RuntimeError(f"output is missing or out of place: {part.stream} at {part.offset}")
        digest.update(part.data)
        size += len(part.data)
    seconds = time.perf_counter() - began
    return Copied(size_bytes=size, sha256=digest.hexdigest(), seconds=seconds)


async def _main(options: argparse.Namespace) -> None:
    async with MeshClient.connect(options.context, timeout_s=30) as mesh:
        if options.kind == "copy":
            print_result(await copy(mesh, options.group, options.source))
            return
        work = noop if options.kind == "noop" else process
        print_result(await work(mesh, options.group, options.count, options.in_flight))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["noop", "process", "copy"])
    parser.add_argument("--context", type=Path, required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--source", default="")
    return parser.parse_args()


if __name__ == "__main__":
    configure_logs("error")
    uvloop.install()
    asyncio.run(_main(_options()))
