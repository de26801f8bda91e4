"""One client that asks for far too much at once, as a process: `python -m tests.floods …`.

Prints the codes of the refusals as JSON when all that it has asked for is answered.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from broker_client.api import MeshClient
from schemas import codec
from schemas.faults import MeshError
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import LogsAnswer, LogsRequest, SubmitRequest
from schemas.messages.fanouts import FanoutRecord, FanoutSubmit
from tests.storms import LOUD

_ROOT: Final = Path(__file__).parents[1]

Asked = list[Coroutine[Any, Any, object]]


async def _fanouts(loud: MeshClient) -> Asked:
    args = msgspec.Raw(codec.encode(ProcessArgs(argv=["sleep", "60"])))
    sleep = SubmitRequest(action="process", args=args)
    asked = [FanoutSubmit(id=f"f-{each}", agents=["web-1"], command=sleep) for each in range(256)]
    return [loud.ask("fanout", "submit", each, FanoutRecord) for each in asked]


async def _large(loud: MeshClient) -> Asked:
    args = ProcessArgs(argv=["cat"], stdin=b"x" * 250_000)
    return [loud.submit(args, agent=LOUD) for _ in range(125)]


async def _logs(loud: MeshClient) -> Asked:
    held = await loud.submit(["sleep", "60"], agent="web-1")
    wanted = LogsRequest(id=held.id, wait_s=10.0)
    return [loud.ask("command", "logs", wanted, LogsAnswer) for _ in range(900)]


FLOODS: Final[dict[str, Callable[[MeshClient], Coroutine[Any, Any, Asked]]]] = {
    "fanouts": _fanouts,
    "large": _large,
    "logs": _logs,
}


async def flood(context: Path, name: str) -> list[str]:
    """The codes of what was refused, of a client in a process of its own."""
    argv = [sys.executable, "-m", "tests.floods", str(context), name]
    process = await asyncio.create_subprocess_exec(*argv, cwd=_ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        said, _ = await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    codes: list[str] = json.loads(said)
    return codes


async def _main(context: Path, name: str) -> None:
    async with MeshClient.connect(context, timeout_s=60) as loud:
        answers = await asyncio.gather(*await FLOODS[name](loud), return_exceptions=True)
    faults = [each for each in answers if isinstance(each, BaseException)]
    strange = [each for each in faults if not isinstance(each, MeshError)]
    if strange:
        raise strange[0]
    json.dump([each.code for each in faults if isinstance(each, MeshError)], sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))
