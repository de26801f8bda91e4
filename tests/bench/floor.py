"""The floor: what a durable command costs on this broker, disk and client library at the least.

    client ─submit─▶ master ═fact, group commit═▶ stream ─▶ answer to the client
                       └─run─▶ agent ═journal, fsync═▶ acknowledged ═done, fsync═▶ report
    client ◀─result─ master ◀═outcome, group commit═ stream ◀──────────────────────┘

Three processes and a broker that syncs every write, as in the mesh; but plain TCP, a stock client
library on uvloop, and nothing checked, sent again, timed, queued, balanced, recorded or cleaned up.
Whatever the mesh costs on top of this is the price of its promises.
"""

import argparse
import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from tests.bench.load import Latencies, print_result, run_load

STREAM: Final = "FLOOR"
SUBMIT: Final = "floor.submit"
RUN: Final = "floor.run"
REPORT: Final = "floor.report"
RELEASE: Final = "floor.release"
RESULT: Final = "floor.result"
REPLY_S: Final = 30.0
# What the measurements of the stream showed to be past the knee: larger batches gain little.
BATCH: Final = 500

Body = dict[str, Any]
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Body).decode
decode_list = msgspec.msgpack.Decoder(list[Body]).decode


class Tasks:
    """Keeps tasks from being collected; asyncio itself tells of one that failed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class GroupCommit:
    """One atomic batch in flight; what arrives meanwhile forms the next."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection
        self._waiting: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._batches = 0

    def add(self, subject: str, payload: bytes) -> "asyncio.Future[None]":
        durable = asyncio.get_running_loop().create_future()
        self._waiting.append((subject, payload, durable))
        self._arrived.set()
        return durable

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._commit(batch)
                for _, _, durable in batch:
                    durable.set_result(None)

    async def _commit(self, batch: list[tuple[str, bytes, "asyncio.Future[None]"]]) -> None:
        """Source of the headers: ADR-50 of the NATS architecture, atomic batch publishing."""
        self._batches += 1
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        if len(batch) > 1:
            headers["Nats-Batch-Id"] = f"b{self._batches}"
            for number, (subject, payload, _) in enumerate(batch[:-1], 1):
                headers["Nats-Batch-Sequence"] = str(number)
                await self._connection.publish(subject, payload, headers=headers)
            headers["Nats-Batch-Sequence"] = str(len(batch))
            headers["Nats-Batch-Commit"] = "1"
        subject, payload, _ = batch[-1]
        answer = await self._connection.request(subject, payload, REPLY_S, headers=headers)
        if b'"error"' in answer.data:
            raise RuntimeError(f"the stream refused a batch: {answer.data[:200]!r}")


class Journal:
    """SQLite with an fsync per commit; what arrives during one commit forms the next."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute("create table attempt (id text primary key, body blob, state text)")
        self._waiting: list[tuple[str, tuple[Any, ...], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()

    def add(self, statement: str, *values: object) -> "asyncio.Future[None]":
        durable = asyncio.get_running_loop().create_future()
        self._waiting.append((statement, values, durable))
        self._arrived.set()
        return durable

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await asyncio.to_thread(self._commit, batch)
                for _, _, durable in batch:
                    durable.set_result(None)

    def _commit(self, batch: list[tuple[str, tuple[Any, ...], "asyncio.Future[None]"]]) -> None:
        self._db.execute("begin")
        for statement, values, _ in batch:
            self._db.execute(statement, values)
        self._db.execute("commit")


async def master(connection: Client, tasks: Tasks) -> None:
    await connection.jetstream().add_stream(
        StreamConfig(name=STREAM, subjects=["floor.fact.>"], allow_atomic=True)
    )
    facts = GroupCommit(connection)

    async def carry(msg: Msg) -> None:
        await facts.add(f"floor.fact.{decode(msg.data)['id']}.accepted", msg.data)
        await msg.respond(b"ok")
        await connection.request(RUN, msg.data, REPLY_S)

    async def take(msg: Msg) -> None:
        outcomes = {outcome["id"]: encode(outcome) for outcome in decode_list(msg.data)}
        subjects = [(f"floor.fact.{name}.outcome", payload) for name, payload in outcomes.items()]
        await asyncio.gather(*[facts.add(subject, payload) for subject, payload in subjects])
        for name, payload in outcomes.items():
            await connection.publish(f"{RESULT}.{name}", payload)
        await connection.publish(RELEASE, encode([*outcomes]))

    await connection.subscribe(SUBMIT, cb=_in_a_task(tasks, carry))
    await connection.subscribe(REPORT, cb=_in_a_task(tasks, take))
    await connection.flush()
    _say_ready()
    await facts.run()


async def agent(connection: Client, tasks: Tasks, directory: Path) -> None:
    journal = Journal(directory / "journal.db")
    known: set[str] = set()
    ended: list[Body] = []
    has_ended = asyncio.Event()

    async def execute(msg: Msg) -> None:
        command = decode(msg.data)["id"]
        if command in known:
            return
        known.add(command)
        await journal.add("insert into attempt values (?, ?, 'accepted')", command, msg.data)
        await msg.respond(b"ok")
        await journal.add("update attempt set state = 'ended' where id = ?", command)
        ended.append({"id": command, "state": "succeeded", "exit_code": 0})
        has_ended.set()

    async def release(msg: Msg) -> None:
        known.difference_update(msgspec.msgpack.decode(msg.data))

    async def report() -> None:
        while True:
            await has_ended.wait()
            has_ended.clear()
            outcomes = ended.copy()
            ended.clear()
            for start in range(0, len(outcomes), BATCH):
                await connection.publish(REPORT, encode(outcomes[start : start + BATCH]))

    await connection.subscribe(RUN, cb=_in_a_task(tasks, execute))
    await connection.subscribe(RELEASE, cb=release)
    await connection.flush()
    _say_ready()
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.run())
        group.create_task(report())


class FloorClient:
    """One command from submission to result, as the load generator drives it."""

    def __init__(self, connection: Client, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._submitted = 0
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def listen(self) -> None:
        await self._connection.subscribe(f"{RESULT}.*", cb=self._on_result)
        await self._connection.flush()

    async def _on_result(self, msg: Msg) -> None:
        waiting = self._waiting.pop(msg.subject.rsplit(".", 1)[1], None)
        if waiting is not None:
            waiting.set_result(None)

    async def run(self) -> None:
        self._submitted += 1
        command = f"{self._prefix}-{self._submitted}"
        ended = self._waiting[command] = asyncio.get_running_loop().create_future()
        body = {"id": command, "group": "floor", "action": "noop", "args": {}}
        await self._connection.request(SUBMIT, encode(body), REPLY_S)
        await ended


async def client(connection: Client, prefix: str, count: int, in_flight: int) -> Latencies:
    floor = FloorClient(connection, prefix)
    await floor.listen()
    return await run_load(floor.run, count=count, in_flight=in_flight)


def _in_a_task(
    tasks: Tasks, work: Callable[[Msg], Coroutine[Any, Any, None]]
) -> Callable[[Msg], Awaitable[None]]:
    """A subscription's callback that takes the next message at once."""

    async def start(msg: Msg) -> None:
        tasks.spawn(work(msg))

    return start


def _say_ready() -> None:
    print("ready", flush=True)


async def _main(options: argparse.Namespace) -> None:
    connection = await nats.connect(options.url)
    tasks = Tasks()
    try:
        if options.role == "master":
            await master(connection, tasks)
        elif options.role == "agent":
            await agent(connection, tasks, options.directory)
        else:
            print_result(await client(connection, options.prefix, options.count, options.in_flight))
    finally:
        await connection.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["master", "agent", "client"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--prefix", default="c")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(_main(_options()))
