"""Following a fan-out to its end: output as agents end, live, or into files."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from broker_client.cli.command.logs import Line, LineWriter
from broker_client.cli.fanout.progress import ENDED, Progress, ended_of, print_output
from broker_client.cli.screen.report import say
from broker_client.cli.screen.sinks import Screen
from broker_client.cli.session import say_notice
from schemas.faults import MeshError, Refused
from schemas.ids import check_name
from schemas.messages.facts import CommandRecord
from schemas.messages.fanouts import LABEL, FanoutMember, FanoutQuery, FanoutRecord
from schemas.states import State
from schemas.subjects import STDERR, STDOUT

if TYPE_CHECKING:
    from broker_client.api import MeshClient
    from broker_client.results import Reader

Display = Literal["all", "ok", "failed"]
Show = Callable[[str, CommandRecord], Awaitable[None]]

# Seconds between two requests for the progress; results are pushed meanwhile.
LOOK_S: Final = 1.0
RUNNING: Final = "running"
SKIPPED: Final = "skipped"
_NOT_BEGUN: Final = frozenset({"waiting", SKIPPED, str(State.QUEUED)})
# Agents whose output is read at one time; the broker allows ten times as many requests.
_READ_AT_ONCE: Final = 100


class Shown(NamedTuple):
    """Display of output. is_live: as it comes. display: of which agents. out: folder for files."""

    is_live: bool = False
    display: Display = "all"
    out: Path | None = None
    is_raw: bool = False
    is_quiet: bool = False


class Watch:
    """Follows one fan-out on one connection."""

    def __init__(self, mesh: "MeshClient", fanout: str, shown: Shown) -> None:
        self._mesh = mesh
        self._fanout = fanout
        self._shown = shown
        self._progress = Progress(sys.stderr)
        self._seen: set[str] = set()
        self._turn = asyncio.Lock()
        self._missing: set[str] | None = None
        self._places = asyncio.Semaphore(_READ_AT_ONCE)
        self._followers: dict[str, asyncio.Task[None]] = {}

    async def attend(
        self, record: FanoutRecord, results: "Reader", interrupted: asyncio.Event
    ) -> FanoutRecord | None:
        """Follow until all agents have ended; None if the person left. interrupted: by Ctrl-C."""
        self._mesh.notices.say, self._mesh.notices.goes_on = self._note, f"{record.id} goes on"
        showing = asyncio.ensure_future(self._show_results(results))
        leaving = asyncio.ensure_future(self._obey(interrupted))
        try:
            query = FanoutQuery(id=record.id, timeout_s=LOOK_S)
            while record.state == RUNNING:
                looking = asyncio.ensure_future(self._look(query))
                busy = {looking, leaving, showing, *self._followers.values()}
                try:
                    await asyncio.wait(
                        {looking, leaving, showing}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    if not looking.done():
                        looking.cancel()
                        await asyncio.wait({looking})
                for each in busy - {looking, leaving}:
                    if each.done():
                        each.result()  # raises if the reader of the output has gone
                if leaving.done():
                    leaving.result()
                    return None
                record = looking.result()
            ended = await self._mesh.fanouts.show(record.id)
            if not await self._unless(leaving, self._show_rest(ended.members)):
                return None
        finally:
            await self._end(showing, leaving)
        return ended

    def _note(self, line: str) -> None:
        """Say a notice of the client, not in the middle of the progress line."""
        self._progress.clear()
        say_notice(line)

    async def _unless(self, leaving: "asyncio.Task[None]", work: Awaitable[None]) -> bool:
        """Do `work`; returns False if the person left before its end."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            return working.done()
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait({working})

    async def _end(self, *tasks: "asyncio.Task[None]") -> None:
        every = {*tasks, *self._followers.values()}
        for each in every:
            each.cancel()
        await asyncio.wait(every)
        self._progress.clear()

    # -- progress

    async def _look(self, query: FanoutQuery) -> FanoutRecord:
        record = await self._mesh.fanouts.look(query)
        left = record.agents - ended_of(record)
        is_wanted = self._progress.is_seen and (self._missing is None or len(self._missing) != left)
        if self._shown.is_live or is_wanted:
            members = (await self._mesh.fanouts.show(record.id)).members
            self._missing = {each.agent for each in members if each.state not in ENDED}
            if self._shown.is_live:
                self._follow(members)
        self._progress.show(record, self._missing or ())
        return record

    async def _obey(self, interrupted: asyncio.Event) -> None:
        await interrupted.wait()
        interrupted.clear()
        say(f"ending {self._fanout}; Ctrl-C again to leave it")
        try:
            await self._mesh.fanouts.cancel(self._fanout)
        except MeshError as error:
            say(f"cannot end {self._fanout}: {error}")
        await interrupted.wait()

    # -- output of ended agents

    async def _show_results(self, results: "Reader") -> None:
        async for record in results:
            if record.labels.get(LABEL) != self._fanout:
                continue
            if self._missing is not None:
                self._missing.discard(record.agent or "")
            if not self._shown.is_live:
                await self._show_once(record.agent or "", record.id, record)

    async def _show_once(self, agent: str, command: str, record: CommandRecord | None) -> None:
        """Show the output of one agent to its end, before the next agent's."""
        async with self._turn:
            if command not in self._seen:
                self._seen.add(command)
                found = record or await self._mesh.show(command, with_output=True)
                await self._show(agent, found)

    async def _show(self, agent: str, record: CommandRecord) -> None:
        shown = self._shown
        verdict = "ok" if record.state == State.SUCCEEDED else "failed"
        if shown.is_quiet or shown.display not in ("all", verdict):
            return
        if shown.out is not None:
            await self._keep(agent, record, shown.out)
            return
        self._progress.clear()
        print_output(agent, record, is_raw=shown.is_raw)

    async def _keep(self, agent: str, record: CommandRecord, folder: Path) -> None:
        """Write all output of an agent to two files. Raises Refused (`disk_full`)."""
        check_name("an agent", agent)
        output = self._mesh.logs(record.id, follow=True)
        try:
            with contextlib.ExitStack() as stack:
                files = {
                    stream: stack.enter_context((folder / f"{agent}.{stream}").open("wb"))
                    for stream in (STDOUT, STDERR)
                }
                async for part in output:
                    files[part.stream].write(part.data)
        except OSError as error:
            raise Refused("disk_full", f"--out {folder}: {error.strerror or error}") from error
        finally:
            await output.aclose()

    async def _show_rest(self, members: list[FanoutMember]) -> None:
        """Show the results that were not pushed to this client."""
        if self._shown.is_live:
            self._follow(members)
            for follower in self._followers.values():
                await follower
            return
        for member in members:
            if member.state != SKIPPED:
                await self._show_once(member.agent, member.command, None)

    # -- live output

    def _follow(self, members: list[FanoutMember]) -> None:
        for member in members:
            if member.state not in _NOT_BEGUN and member.command not in self._followers:
                following = asyncio.ensure_future(self._read(member))
                self._followers[member.command] = following

    async def _read(self, member: FanoutMember) -> None:
        async with self._places:
            screen = Screen(is_raw=self._shown.is_raw)
            writer = _Prefixed(screen, member.agent, self._progress.clear)
            output = self._mesh.logs(member.command, follow=True)
            try:
                async for part in output:
                    await writer.write(part)
            finally:
                await output.aclose()
            await writer.flush(is_last=True)


class _Prefixed(LineWriter):
    """Writes whole lines with the name of the agent as prefix; calls `clear` before each."""

    def __init__(self, screen: Screen, agent: str, clear: Callable[[], None]) -> None:
        super().__init__(screen, tail=None, since_s=None, is_stamped=False)
        self._prefix = f"{agent} | ".encode()
        self._clear = clear

    async def show(self, stream: str, line: Line) -> None:
        self._clear()
        end = b"" if line.data.endswith(b"\n") else b"\n"
        await self.sink.write(stream, self._prefix + line.data + end)


def folder_for(path: Path | None) -> Path | None:
    """Make a folder for output, or take an empty one. Raises Refused (`field_invalid`)."""
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise Refused("field_invalid", f"--out {path}: not empty; name a new folder")
    except OSError as error:
        raise Refused("field_invalid", f"--out {path}: {error.strerror or error}") from error
    return path
