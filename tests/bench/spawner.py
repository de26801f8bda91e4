"""The peer of `process` commands: plain asyncio starts /bin/true, reads its pipes and reaps it.

A process of its own, small and without uvloop, which makes each start several times dearer.
"""

import argparse
import asyncio
from asyncio.subprocess import PIPE

from tests.bench.load import Latencies, print_result, run_load

PROGRAM = "/bin/true"


async def start_and_reap() -> None:
    process = await asyncio.create_subprocess_exec(PROGRAM, stdout=PIPE, stderr=PIPE)
    out, _ = await process.communicate()
    if process.returncode or out:
        raise RuntimeError(f"{PROGRAM} ended with {process.returncode}")


async def main(count: int, in_flight: int) -> Latencies:
    watcher = asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)
    return await run_load(start_and_reap, count=count, in_flight=in_flight)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    options = parser.parse_args()
    print_result(asyncio.run(main(options.count, options.in_flight)))
