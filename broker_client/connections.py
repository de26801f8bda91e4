"""Calls through a connection: rows of a database, answers of an HTTP service, files, scripts.

    erp = mesh.connection("erp-db")
    async for row in erp.query("select id, total from sale where day = :day", {"day": day}):
        print(row["id"], row["total"])

A call that does not succeed raises a MeshError: `code` is the fault's, such as `login_refused` or
`target_timeout`, and `effect` says whether the system may have been changed.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping, MutableSequence, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, TypedDict, Unpack

from broker_client.acts import Act, Work
from broker_client.output import Output
from broker_client.results import Waiter
from schemas.faults import FAULTS, Corrupt, Effect, MeshError, Refused
from schemas.messages.actions.file import (
    Exists,
    FileDeleteArgs,
    FileListArgs,
    FileMoveArgs,
    FileReadArgs,
    FileStatArgs,
    FileWriteArgs,
)
from schemas.messages.actions.script import ScriptRunArgs, Value
from schemas.messages.actions.sql import Scalar, SqlExecuteArgs, SqlQueryArgs
from schemas.messages.api import OnInactive, SubmitAnswer
from schemas.messages.facts import CommandRecord
from schemas.states import State
from schemas.subjects import STDOUT

# Bytes of the body of one answer that `request` and `call` keep in memory.
BODY_BYTES: Final = 64 * 1024 * 1024
# Seconds within which the result of a quick call brings its output with it.
_QUICK_S: Final = 0.15
_EFFECTS: Final[Mapping[str, Effect]] = {"none": "none", "unknown": "unknown", "done": "done"}

Result = dict[str, Any]


class CallFields(TypedDict, total=False):
    """Terms of a call.

    id: for deduplication. call_timeout_s, output_bytes: its limits, not above those of the
    connection. on_inactive: while no host is active `refuse`, which is the default, or `queue`.
    """

    id: str | None
    call_timeout_s: float | None
    output_bytes: int | None
    on_inactive: OnInactive | None
    queue_ttl_s: float | None
    labels: dict[str, str]
    priority: int


class Answer(NamedTuple):
    """result: names and values, as docs/connections.md lists them. body: the output."""

    result: Result
    body: bytes


class HttpAnswer(NamedTuple):
    """The answer of an HTTP service; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401  (any JSON)
        return json.loads(self.body)


Start = Callable[..., AbstractAsyncContextManager[tuple[SubmitAnswer, Waiter]]]


class Doors(NamedTuple):
    """Parts of a client for its connections: start a command, read its output, cancel it."""

    start: Start
    logs: Callable[..., Output]
    cancel: Callable[[str], Any]


class Connection:
    """One connection, by name; `MeshClient.connection` makes it without a request."""

    def __init__(self, name: str, doors: Doors) -> None:
        self.name = name
        self._doors = doors

    # databases

    async def query(
        self,
        sql: str,
        params: Mapping[str, Scalar] | None = None,
        *,
        max_rows: int | None = None,
        **fields: Unpack[CallFields],
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the rows of one statement with `:name` parameters, as they come.

        Memory holds one row and at most two answers of output, however many rows there are. A fault
        is raised after the rows before it. Leaving the loop early cancels the call: use
        `contextlib.aclosing` for that to happen at once.
        """
        args = SqlQueryArgs(sql=sql, params=dict(params or {}), max_rows=max_rows)
        async with contextlib.aclosing(self.lines(args, **fields)) as lines:
            async for line in lines:
                yield json.loads(line)

    async def execute(
        self,
        sql: str,
        params: Mapping[str, Scalar] | None = None,
        *,
        many: Sequence[Mapping[str, Scalar]] = (),
        once: bool = False,
        **fields: Unpack[CallFields],
    ) -> Result:
        """Change rows in one transaction; returns `affected` and more.

        many: sets of parameters, instead of `params`. once: a retry of it changes nothing.
        """
        args = SqlExecuteArgs(
            sql=sql, params=dict(params or {}), many=[dict(each) for each in many], once=once
        )
        return (await self.call(args, **fields)).result

    # HTTP

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | list[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        text: str | None = None,
        body: bytes | None = None,
        expect: Sequence[int] = (),
        **fields: Unpack[CallFields],
    ) -> HttpAnswer:
        """Send one request; a status outside `expect` (200 to 299 without it) is a fault."""
        args: dict[str, object] = {
            "method": method,
            "path": path,
            "query": dict(query or {}),
            "headers": dict(headers or {}),
            "expect": [*expect],
        }
        given = {"json": json, "text": text, "body": body}
        args.update({name: value for name, value in given.items() if value is not None})
        answer = await self.call(Act("http.request", args), **fields)
        found = answer.result.get("headers")
        pairs = found.items() if isinstance(found, dict) else ()
        named = {str(name).lower(): str(value) for name, value in pairs}
        return HttpAnswer(int(answer.result.get("status", 0)), named, answer.body)

    # files

    async def list(
        self, path: str = ".", *, pattern: str = "", **fields: Unpack[CallFields]
    ) -> Sequence[dict[str, Any]]:
        """Return the entries of a directory."""
        answer = await self.call(FileListArgs(path=path, pattern=pattern), **fields)
        return [json.loads(line) for line in answer.body.splitlines() if line]

    async def stat(
        self, path: str, *, sha256: bool = False, **fields: Unpack[CallFields]
    ) -> Result:
        return (await self.call(FileStatArgs(path=path, sha256=sha256), **fields)).result

    async def read(
        self,
        path: str,
        *,
        offset: int = 0,
        length: int | None = None,
        **fields: Unpack[CallFields],
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file as they come."""
        args = FileReadArgs(path=path, offset=offset, length=length)
        async with contextlib.aclosing(self.output(args, **fields)) as parts:
            async for part in parts:
                yield part

    async def write(
        self, path: str, body: bytes, *, exists: Exists = "fail", **fields: Unpack[CallFields]
    ) -> Result:
        """Write a file whole, or not at all."""
        return (
            await self.call(FileWriteArgs(path=path, body=body, exists=exists), **fields)
        ).result

    async def move(
        self, path: str, to: str, *, exists: Exists = "fail", **fields: Unpack[CallFields]
    ) -> Result:
        return (await self.call(FileMoveArgs(path=path, to=to, exists=exists), **fields)).result

    async def delete(
        self, path: str, *, missing_ok: bool = False, **fields: Unpack[CallFields]
    ) -> Result:
        return (await self.call(FileDeleteArgs(path=path, missing_ok=missing_ok), **fields)).result

    # scripts

    async def script(
        self,
        name: str,
        params: Mapping[str, Value] | None = None,
        *,
        stdin: bytes = b"",
        **fields: Unpack[CallFields],
    ) -> Answer:
        """Run a script of the host's profile; the body is its stdout."""
        return await self.call(
            ScriptRunArgs(script=name, params=dict(params or {}), stdin=stdin), **fields
        )

    # any action

    async def call(self, work: Work, **fields: Unpack[CallFields]) -> Answer:
        """Carry out any action; returns its result and its output, of at most 64 MiB."""
        body = bytearray()
        ended: list[CommandRecord] = []
        async with contextlib.aclosing(self._parts(work, fields, ended)) as parts:
            async for part in parts:
                if len(body) + len(part) > BODY_BYTES:
                    raise Refused("result_too_large", f"more than {BODY_BYTES} bytes of output")
                body += part
        return Answer(ended[0].result or {}, bytes(body))

    def output(self, work: Work, **fields: Unpack[CallFields]) -> AsyncGenerator[bytes, None]:
        """Yield the output of any action as it comes."""
        return self._parts(work, fields, [])

    async def lines(self, work: Work, **fields: Unpack[CallFields]) -> AsyncGenerator[bytes, None]:
        """Yield the output of any action line by line."""
        rest = b""
        async with contextlib.aclosing(self._parts(work, fields, [])) as parts:
            async for part in parts:
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield line
        if rest:
            yield rest

    async def _parts(
        self, work: Work, fields: CallFields, ended: MutableSequence[CommandRecord]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the output, then raise the fault of the call, or add its record to `ended`."""
        starting = self._doors.start(work, connection=self.name, with_output=True, **fields)
        async with starting as (answer, waiter):
            try:
                await asyncio.wait({waiter.done}, timeout=_QUICK_S)
                record = await waiter.record() if waiter.done.done() else None
                if record is None or record.output is None or record.output.truncated:
                    async with contextlib.aclosing(self._followed(answer.id)) as parts:
                        async for part in parts:
                            yield part
                    record = await waiter.record()
                elif record.output.stdout:
                    yield record.output.stdout
            except GeneratorExit:
                with contextlib.suppress(MeshError):
                    await self._doors.cancel(answer.id)
                raise
            if record.state != State.SUCCEEDED:
                raise fault_of_call(record)
            ended.append(record)

    async def _followed(self, command: str) -> AsyncGenerator[bytes, None]:
        """Yield stdout of the command as it comes. Raises Corrupt where a part of it is missing."""
        output = self._doors.logs(command, follow=True)
        attempt, position = 0, 0
        try:
            async for part in output:
                if part.stream != STDOUT:
                    continue
                if part.attempt != attempt and not position:
                    attempt = part.attempt
                if part.attempt != attempt or part.offset != position:
                    raise Corrupt("internal", f"a part of the output of {command} is missing")
                position += len(part.data)
                if part.data:
                    yield part.data
        finally:
            await output.aclose()


def fault_of_call(record: CommandRecord) -> MeshError:
    """Return the fault with which a call has ended; its code is `internal` if it has none."""
    attempt = record.attempts[-1] if record.attempts else None
    code = attempt.code if attempt is not None else ""
    effect = _EFFECTS.get(attempt.effect if attempt is not None else "", "unknown")
    reason = record.reason or f"command {record.id} is {record.state}"
    if code in FAULTS:
        return MeshError(code, reason, effect=effect)
    if record.state in (State.REJECTED, State.EXPIRED):
        return MeshError(_code_in(reason) or "group_inactive", reason, effect="none")
    if record.state == State.TIMED_OUT:
        return MeshError("target_timeout", reason, effect=effect)
    return MeshError("internal", f"{record.state}: {reason}", effect=effect)


def _code_in(reason: str) -> str:
    """The code that an agent's refusal begins with, if it is one."""
    code = reason.partition(":")[0]
    return code if code in FAULTS else ""
