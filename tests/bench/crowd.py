"""A process of light agents for the benchmark of scale: runs until it is ended.

python -m tests.bench.crowd --group bench --tokens FILE --start 0 --count 1000

Each enrols with its activation token, so that the master knows them all.
"""

import argparse
import asyncio
import contextlib
import gc
import tempfile
from pathlib import Path

import uvloop

from broker_agent.services.enrolment import redeem
from broker_client.runtime.clock import SystemClock
from broker_client.runtime.identity import new_identity, read_identity, write_identity
from broker_client.runtime.logs import configure_logs
from broker_client.runtime.token import decode_token
from schemas.timers import Timers
from tests.chaos.light import LightAgent
from tests.chaos.witness import Witness
from tests.servers import TestCredentials

# So many enrol side by side: the processors are busy with few, and each answer takes a moment.
AT_ONCE = 8
MEMORY = Path("/dev/shm")


class _Blind(Witness):
    """The work itself is of no interest here."""

    def __init__(self) -> None:
        pass

    def note(self, *_: object, **__: object) -> None:
        pass


async def _main(options: argparse.Namespace) -> None:
    lines = options.tokens.read_text().splitlines()
    texts = lines[options.start : options.start + options.count]
    beat_s, turns = Timers().beat_s, asyncio.Semaphore(AT_ONCE)
    async with contextlib.AsyncExitStack() as stack:

        async def join(text: str) -> None:
            async with turns:
                credentials = await _enrolled(text)
            light = LightAgent(options.group, _Blind(), credentials, beat_s)
            await stack.enter_async_context(light)

        async with asyncio.TaskGroup() as group:
            for text in texts:
                group.create_task(join(text))
        await asyncio.Event().wait()


async def _enrolled(text: str) -> TestCredentials:
    token = decode_token(text)
    keys = new_identity(token.agent)
    answer = await redeem(token, keys, SystemClock())
    cert_pem, ca_pem = answer.cert_pem.encode(), answer.ca_pem.encode()
    # In memory and gone at once: ten thousand new files would slow the broker's disk down.
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        identity = Path(folder) / token.agent
        write_identity(identity, keys, cert_pem=cert_pem, ca_pem=ca_pem, jwt=answer.jwt)
        context = read_identity(identity).context
    return TestCredentials(
        role="agent",
        name=token.agent,
        folder=identity,
        url=answer.urls[0],
        context=context,
        jwt=answer.jwt,
        seed=keys.seed,
        user=keys.user,
        serial=answer.serial,
        not_after=int(answer.not_after),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    configure_logs("error")
    # A thousand agents of one process make garbage as one of a thousand would: little.
    gc.set_threshold(50_000, 20, 50)
    uvloop.install()
    asyncio.run(_main(_options()))
