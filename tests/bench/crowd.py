"""A process of light agents for the benchmark of scale: runs until it is ended.

python -m tests.bench.crowd --group bench --tokens FILE --folder D --start 0 --count 1000

Each enrols with its activation token, so that the master knows them all.
"""

import argparse
import asyncio
import contextlib
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


class _Blind(Witness):
    """What runs is of no interest here."""

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
                credentials = await _enrolled(text, options.folder)
            light = LightAgent(options.group, _Blind(), credentials, beat_s)
            await stack.enter_async_context(light)

        async with asyncio.TaskGroup() as group:
            for text in texts:
                group.create_task(join(text))
        await asyncio.Event().wait()


async def _enrolled(text: str, root: Path) -> TestCredentials:
    token = decode_token(text)
    keys, folder = new_identity(token.agent), root / token.agent
    answer = await redeem(token, keys, SystemClock())
    cert_pem, ca_pem = answer.cert_pem.encode(), answer.ca_pem.encode()
    write_identity(folder, keys, cert_pem=cert_pem, ca_pem=ca_pem, jwt=answer.jwt)
    return TestCredentials(
        role="agent",
        name=token.agent,
        folder=folder,
        url=answer.urls[0],
        context=read_identity(folder).context,
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
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    configure_logs("error")
    uvloop.install()
    asyncio.run(_main(_options()))
