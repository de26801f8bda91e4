"""Agents without a process: as much of the protocol as it takes to be one of hundreds."""

import asyncio
import os
import random
from contextlib import suppress
from typing import Final, Self

from broker_client.runtime.link import Link, LinkIdentity, Msg
from schemas import codec, subjects
from schemas.faults import Unreachable
from schemas.messages.liveness import Beat, Echo, Hello, Welcome
from schemas.messages.work import AttemptReport, Report, Run, RunReply
from tests.chaos.history import now
from tests.chaos.witness import Witness
from tests.servers import TestCredentials

SLOTS: Final = 4


class LightAgent:
    """Runs nothing, and says that it has; every `run` it accepts is a line of the witness."""

    def __init__(
        self, group: str, witness: Witness, credentials: TestCredentials, beat_s: float
    ) -> None:
        self.name = credentials.name
        self._group = group
        self._witness = witness
        self._beat_s = beat_s
        self._incarnation = f"light-{os.urandom(6).hex()}"
        self._seq = 0
        self._epoch = 0
        self._reports = 0
        self._known: set[tuple[str, int]] = set()
        self._reconciled = False
        identity = LinkIdentity(tls=credentials.context, jwt=credentials.jwt, seed=credentials.seed)
        self.link = Link([credentials.url], lambda: identity, self.name, credentials.inbox)
        self.link.subscribe(subjects.down_all(group, self.name), self._on_message)
        self.link.on_connected(self._hello)
        self._beats: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.link.start()
        self._beats = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.wait({self._beats})
        await self.link.close(0.5)

    def _say(self, kind: str, payload: bytes) -> None:
        with suppress(Unreachable):
            self.link.publish_nowait(subjects.up(self._group, self.name, kind), payload)

    def _hello(self) -> None:
        self._reconciled = False
        hello = Hello(incarnation=self._incarnation, epoch=self._epoch, slots=SLOTS)
        self._say("hello", codec.encode(hello))

    async def _beat(self) -> None:
        while True:
            self._seq += 1
            if self.link.is_connected:
                beat = Beat(
                    incarnation=self._incarnation,
                    seq=self._seq,
                    epoch=self._epoch,
                    slots=SLOTS,
                    at=now(),
                )
                self._say("beat", codec.encode(beat))
                if not self._reconciled:
                    self._hello()
            await asyncio.sleep(self._beat_s * random.uniform(0.9, 1.1))

    def _on_message(self, message: Msg) -> None:
        kind = message.subject.rpartition(".")[2]
        if kind == "echo":
            echo = codec.decode(Echo, message.data)
            if not echo.reconciled or echo.epoch > self._epoch:
                self._epoch = max(self._epoch, echo.epoch)
                self._reconciled = False
        elif kind == "welcome":
            welcome = codec.decode(Welcome, message.data)
            self._epoch, self._reconciled = welcome.epoch, True
            done = Hello(incarnation=self._incarnation, epoch=self._epoch, slots=SLOTS, done=True)
            self._say("hello", codec.encode(done))
        elif kind == "run":
            self._on_run(codec.decode(Run, message.data))

    def _on_run(self, run: Run) -> None:
        key = (run.command, run.attempt)
        is_new = key not in self._known
        if is_new:
            self._known.add(key)
            self._witness.note(run.command, run.attempt, self.name)
        reply = RunReply(
            command=run.command,
            attempt=run.attempt,
            answer="accepted" if is_new else "duplicate",
            state="accepted" if is_new else "succeeded",
        )
        with suppress(Unreachable):
            where = subjects.reply(self._group, self.name, run.token)
            self.link.publish_nowait(where, codec.encode(reply))
        self._reports += 1
        ended = AttemptReport(
            command=run.command,
            attempt=run.attempt,
            kind="ended",
            seq=self._reports,
            state="succeeded",
            exit_code=0,
        )
        self._say("report", codec.encode(Report(incarnation=self._incarnation, items=[ended])))
