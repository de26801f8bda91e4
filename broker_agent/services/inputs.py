"""Fetches the staged input of an attempt from the master before its program is started.

The parts go into a file without a name in the folder of the tasks: it is gone with its last
descriptor, also after a crash. Requests without an answer are repeated, so a restart of the master
or of the broker delays the start, and a stop of the attempt ends it.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from broker_agent.core.input_parts import PartWindow
from broker_agent.core.tasks import AttemptKey, TaskEntry
from broker_agent.executors.spawn import CannotStart
from broker_agent.services.wire import Station
from schemas import codec, limits
from schemas.faults import Refused, Unreachable
from schemas.messages.actions import StagedInput
from schemas.messages.work import InputReply, InputRequest

_TICK_S: Final = 0.5
_HASH_BYTES: Final = 1024 * 1024

# Called once: with a descriptor at the first byte, which the callee owns; with a fault; or with
# None if the attempt was stopped before.
OnFetched = Callable[[int | CannotStart | None], None]


class InputFetcher:
    """Fetches inputs of any number of attempts. folder: for their files."""

    def __init__(self, station: Station, folder: Path) -> None:
        self._station = station
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._open: dict[AttemptKey, _Fetch] = {}

    def fetch(self, entry: TaskEntry, input: StagedInput, done: OnFetched) -> None:
        """Begin to fetch; `done` is called in a later turn of the loop."""
        from tempfile import TemporaryFile  # imported on demand: agents are small

        try:
            file = TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            self._loop.call_soon(done, _no_file(error))
            return
        now_s = self._station.clock.elapsed()
        fetch = _Fetch(entry, input, file, PartWindow(input.parts, now_s), done)
        self._open[entry.key] = fetch
        self._tick(fetch)

    def on_input(self, payload: bytes) -> None:
        """Take in one part. Raises Refused for one that nobody waits for."""
        reply = codec.decode_sized(InputReply, payload)
        fetch = self._open.get((reply.command, reply.attempt))
        if fetch is None:
            raise Refused("attempt_stale", f"input of {reply.command}, which waits for none")
        if reply.code:
            self._end(fetch, CannotStart(f"{reply.message} ({reply.code})"))
            return
        if len(reply.data) != fetch.size_of(reply.part):
            self._end(fetch, CannotStart(f"part {reply.part} of its input has another size"))
            return
        if not fetch.window.take(reply.part, self._station.clock.elapsed()):
            return
        try:
            os.pwrite(fetch.file.fileno(), reply.data, reply.part * limits.INPUT_PART_BYTES)
        except OSError as error:
            self._end(fetch, _no_file(error))
            return
        if fetch.window.is_whole:
            self._finish(fetch)
        else:
            self._ask(fetch)

    def _tick(self, fetch: "_Fetch") -> None:
        """Ask again for what is late; end what was stopped, or for which nothing comes."""
        if fetch.entry.stop is not None:
            self._end(fetch, None)
        elif fetch.window.is_hopeless(self._station.clock.elapsed()):
            self._end(fetch, CannotStart("the master does not send its input"))
        else:
            self._ask(fetch)
            fetch.timer = self._loop.call_later(_TICK_S, self._tick, fetch)

    def _ask(self, fetch: "_Fetch") -> None:
        if not self._station.wire.is_connected:
            return
        entry = fetch.entry
        for part in fetch.window.due(self._station.clock.elapsed()):
            request = InputRequest(command=entry.command, attempt=entry.attempt, part=part)
            try:
                self._station.wire.publish_nowait(
                    self._station.address.input, codec.encode(request)
                )
            except Unreachable:
                return  # asked again once it is late

    def _finish(self, fetch: "_Fetch") -> None:
        from hashlib import sha256  # imported on demand: agents are small

        fd = fetch.file.fileno()
        digest, at = sha256(), 0
        try:
            while data := os.pread(fd, _HASH_BYTES, at):
                digest.update(data)
                at += len(data)
            if digest.digest() != fetch.input.sha256:
                self._end(fetch, CannotStart("its input is not what its client sent"))
                return
            # A descriptor of its own: for reading only, and at the first byte.
            opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._end(fetch, _no_file(error))
            return
        self._end(fetch, opened)

    def _end(self, fetch: "_Fetch", outcome: int | CannotStart | None) -> None:
        self._open.pop(fetch.entry.key, None)
        if fetch.timer is not None:
            fetch.timer.cancel()
        fetch.file.close()
        self._loop.call_soon(fetch.done, outcome)


class _Fetch:
    def __init__(
        self,
        entry: TaskEntry,
        input: StagedInput,
        file: IO[bytes],
        window: PartWindow,
        done: OnFetched,
    ) -> None:
        self.entry = entry
        self.input = input
        self.file = file
        self.window = window
        self.done = done
        self.timer: asyncio.TimerHandle | None = None

    def size_of(self, part: int) -> int:
        return min(limits.INPUT_PART_BYTES, self.input.size - part * limits.INPUT_PART_BYTES)


def _no_file(error: OSError) -> CannotStart:
    return CannotStart(f"no file for its input: {(error.strerror or str(error)).lower()}")
