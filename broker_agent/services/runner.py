"""Runs accepted attempts, and reports each end until the master has stored it.

begin ─▶ start ─▶ task ends ─▶ output stored ─▶ journal ─▶ report ─▶ release
                      │ small                      ▲
                      └────────────────────────────┘
"""

import asyncio
import signal
from collections import deque
from typing import Final

import structlog

from broker_agent.core.program import Ending
from broker_agent.core.tasks import TaskEntry, TaskPhase
from broker_agent.executors.base import NO_WAY, Executor, Job, Way
from broker_agent.executors.registry import Executors
from broker_agent.executors.spawn import CannotStart
from broker_agent.services.inputs import InputFetcher
from broker_agent.services.reporter import Reporter
from broker_agent.services.running import Active, Running, Unrecorded
from broker_agent.services.shipper import Shipment, Shipper
from broker_agent.services.watchdog import Watchdog
from broker_agent.services.wire import Station
from broker_agent.store.folders import Folders, TaskFolder
from broker_agent.store.journal import Journal, WriteResult
from broker_agent.store.rows import AttemptRow, ReleasedAttempt, end_row
from broker_client.runtime import failpoints
from schemas import codec, limits
from schemas.faults import MeshError, Refused
from schemas.messages.actions import ActionArgs, ProcessArgs
from schemas.messages.work import AttemptReport, Output, Release
from schemas.states import State
from schemas.texts import cut_text

# Delay of the report of a start: shorter tasks need one report instead of two.
STARTED_AFTER_S: Final = 0.05
# Delay of the record of work that may be repeated: a shorter one is recorded with its end.
RECORDED_AFTER_S: Final = 0.05
# Run time after which output is sent while the task runs.
FOLLOW_AFTER_S: Final = 0.25
# Longest wait, and interval of looks, for output files of an earlier start.
CARRIED_S: Final = 5.0
CARRIED_POLL_S: Final = 0.02
# Exit codes of a shell for an end by TERM or KILL.
_KILLED: Final = frozenset({128 + signal.SIGTERM, 128 + signal.SIGKILL})

log = structlog.get_logger(__name__)


class Runner:
    """Runs accepted attempts.

    running: shared with services that stop tasks. watchdog: checked before each end.
    """

    def __init__(  # noqa: PLR0913  (one part of the agent each)
        self,
        station: Station,
        *,
        running: Running,
        watchdog: Watchdog,
        journal: Journal,
        reporter: Reporter,
        shipper: Shipper,
        folders: Folders,
        executors: Executors,
        inputs: InputFetcher,
    ) -> None:
        self._lease = station.lease
        self._clock = station.clock
        self._book = station.book
        self._running = running
        self._watchdog = watchdog
        self._journal = journal
        self._reporter = reporter
        self._shipper = shipper
        self._folders = folders
        self.executors = executors
        self._inputs = inputs
        self._loop = asyncio.get_running_loop()
        self._seq = journal.first_seq
        self._starting: deque[tuple[Executor, Active]] = deque()
        self._idle = asyncio.Event()
        self._told = asyncio.Event()
        self._released = asyncio.Event()

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # Starts.

    def begin(
        self,
        executor: Executor,
        entry: TaskEntry,
        args: ActionArgs,
        limit_bytes: int,
        trace: str = "",
        way: Way = NO_WAY,
        unrecorded: Unrecorded | None = None,
    ) -> None:
        """Start an attempt in a later turn of the loop, since a start blocks the loop.

        unrecorded: of work that may be repeated; other attempts are in the journal.
        """
        active = Active(entry, args, limit_bytes, trace, way)
        if unrecorded is not None:
            active.unrecorded = unrecorded
            self._loop.call_later(RECORDED_AFTER_S, active.record)
        self._running.active[entry.key] = active
        if not self._starting:
            self._loop.call_soon(self._start_next)
        self._starting.append((executor, active))

    def _start_next(self) -> None:
        executor, active = self._starting.popleft()
        if self._starting:
            self._loop.call_soon(self._start_next)
        entry, args = active.entry, active.args
        if entry.stop is None and isinstance(args, ProcessArgs) and args.input is not None:
            self._inputs.fetch(
                entry, args.input, lambda found: self._on_fetched(executor, active, found)
            )
            return
        self._start_now(executor, active)

    def _on_fetched(
        self, executor: Executor, active: Active, found: int | CannotStart | None
    ) -> None:
        """Start an attempt whose input has come; end it if there is none."""
        if isinstance(found, CannotStart) and active.entry.stop is None:
            self._on_end(active, Ending(State.FAILED, found.exit_code, found.message))
            return
        if isinstance(found, int):
            active.stdin = found
        self._start_now(executor, active)

    def _start_now(self, executor: Executor, active: Active) -> None:
        entry = active.entry
        if entry.stop is not None:
            active.close_stdin()
            self._on_end(active, Ending(entry.stop, None, entry.stop_reason))
            return
        try:
            self._start(executor, active)
        except CannotStart as fault:
            active.close_stdin()
            self._on_end(active, Ending(State.FAILED, fault.exit_code, fault.message))
        except MeshError as fault:
            active.close_stdin()
            effect = fault.effect if active.way.connection else ""
            ending = Ending(State.FAILED, None, fault.message, effect=effect, code=fault.code)
            self._on_end(active, ending)

    def _start(self, executor: Executor, active: Active) -> None:
        entry = active.entry
        active.folder = self._folders.make(entry.command, entry.attempt)
        entry.has_folder = True
        active.task = executor.start(
            self._job(active, active.folder),
            lambda: self._on_started(active),
            lambda ending: self._on_end(active, ending),
        )
        active.stdin = -1  # the executor closes it

    def _job(self, active: Active, folder: TaskFolder) -> Job:
        assert active.args is not None  # noqa: S101  (only recovered attempts have none)
        entry = active.entry
        after_s = self._lease.timers.fence_after_s(entry.kill_after_s)
        return Job(
            entry.command,
            entry.attempt,
            active.args,
            folder,
            active.trace,
            after_s,
            active.way,
            active.limit_bytes,
            active.stdin,
        )

    def _on_started(self, active: Active) -> None:
        entry = active.entry
        entry.started_at = self._clock.now()
        entry.phase, entry.state = TaskPhase.RUNNING, State.RUNNING
        entry.pid = active.task.pid if active.task is not None else 0
        active.timer = self._loop.call_later(STARTED_AFTER_S, self._on_still_running, active)

    def _on_still_running(self, active: Active) -> None:
        entry = active.entry
        active.record()
        mark = active.task.identify() if active.task is not None else (0, 0)
        self._journal.running(entry.row, entry.started_at, *mark)
        self._reporter.add(
            AttemptReport(
                command=entry.command,
                attempt=entry.attempt,
                kind="started",
                seq=self.next_seq(),
                state=State.RUNNING,
                accepted_at=entry.accepted_at,
                started_at=entry.started_at,
                pid=entry.pid,
            )
        )
        active.timer = self._loop.call_later(FOLLOW_AFTER_S - STARTED_AFTER_S, self._follow, active)

    def _follow(self, active: Active) -> None:
        active.timer = None
        self._shipper.follow(self._shipment(active))

    def _shipment(self, active: Active) -> Shipment:
        if active.shipment is None:
            assert active.folder is not None  # noqa: S101  (made before the task was started)
            active.shipment = Shipment(active.entry.key, active.folder, active.limit_bytes)
        return active.shipment

    # Ends.

    def _on_end(self, active: Active, ending: Ending) -> None:
        entry = active.entry
        was_asked = entry.stop is not None
        self._watchdog.check()
        if not was_asked and entry.stop is State.KILLED_FENCED and ending.exit_code in _KILLED:
            # Its deadline had passed before its end was noticed: the warden has killed it.
            ending = Ending(entry.stop, ending.exit_code, entry.stop_reason)
        if active.timer is not None:
            active.timer.cancel()
            active.timer = None
        active.task = None
        entry.phase, entry.ending = TaskPhase.CLOSING, ending.state
        self._book.free(entry)
        self.note_idle()
        if entry.is_void:
            self.discard(entry)
            return
        ended_at = self._clock.now()
        sizes = active.folder.sizes() if active.folder is not None else (0, 0)
        shipment = active.shipment
        is_untouched = shipment is None or shipment.is_untouched
        if is_untouched and sum(sizes) <= _inline_limit(active, ending) and not _has_lost(active):
            self._shipper.drop(entry.key)
            self._close(active, ending, ended_at, sizes)
            return
        # On disk first: after a restart the output is sent again and the end is kept.
        active.record()
        report = self._end_report(active, ending, ended_at, sizes)
        self._journal.ended(self._row(entry, report, codec.encode(report), shipped=False), _ignore)
        self._ship_rest(active, ending, ended_at, sizes)

    def _ship_rest(
        self, active: Active, ending: Ending, ended_at: float, sizes: tuple[int, int]
    ) -> None:
        self._shipper.finish(
            self._shipment(active), lambda: self._close(active, ending, ended_at, sizes)
        )

    def _close(
        self, active: Active, ending: Ending, ended_at: float, sizes: tuple[int, int]
    ) -> None:
        """Record the end, then report it, after all output is stored."""
        entry, folder = active.entry, active.folder
        output = None
        if folder is not None:
            is_whole = not (active.shipment and active.shipment.truncated) and not _has_lost(active)
            if is_whole and 0 < sum(sizes) <= _inline_limit(active, ending):
                output = Output(
                    stdout=folder.read(0, sizes[0], 0), stderr=folder.read(1, sizes[1], 0)
                )
            folder.close()
            if sizes == (0, 0) and folder.is_closed and self._folders.reuse(folder.path):
                entry.has_folder = False
        entry.has_output = sizes != (0, 0)
        report = self._end_report(active, ending, ended_at, sizes, output)
        self._running.active.pop(entry.key, None)
        # Its timer may still fire.
        unrecorded, active.unrecorded = active.unrecorded, None
        self._end(entry, report, unrecorded)

    def _end(
        self, entry: TaskEntry, report: AttemptReport, unrecorded: Unrecorded | None = None
    ) -> None:
        raw = codec.encode(report)

        def recorded(outcome: WriteResult) -> None:
            if unrecorded is not None:
                is_old = isinstance(outcome, str)
                unrecorded.note_end(outcome if isinstance(outcome, str) else None)
                if is_old:
                    return
            # The end is reported even if the journal fails now.
            if isinstance(outcome, MeshError):
                log.error("end_not_recorded", command_id=entry.command, error=outcome.message)
            failpoints.reach("agent.ended_not_reported")
            entry.phase, entry.state = TaskPhase.ENDED, State(report.state)
            self._reporter.add_encoded(entry.key, report.seq, raw, is_end=True)
            self._told.set()

        row = self._row(entry, report, raw, shipped=True)
        # The end is written with the acceptance, if the journal has neither.
        write = self._journal.ended if unrecorded is None else self._journal.accept
        write(row, recorded)

    def _row(
        self, entry: TaskEntry, report: AttemptReport, raw: bytes, *, shipped: bool
    ) -> AttemptRow:
        return end_row(entry.row, self._lease.incarnation, report, raw, shipped=shipped)

    def _end_report(
        self,
        active: Active,
        ending: Ending,
        ended_at: float,
        sizes: tuple[int, int],
        output: Output | None = None,
    ) -> AttemptReport:
        entry, shipment = active.entry, active.shipment
        return AttemptReport(
            command=entry.command,
            attempt=entry.attempt,
            kind="ended",
            seq=self.next_seq(),
            state=ending.state,
            accepted_at=entry.accepted_at,
            started_at=entry.started_at,
            ended_at=ended_at,
            exit_code=ending.exit_code,
            reason=cut_text(ending.reason),
            pid=entry.pid,
            stdout_bytes=sizes[0],
            stderr_bytes=sizes[1],
            output=output,
            truncated=(shipment is not None and shipment.truncated) or _has_lost(active),
            result=ending.result,
            effect=ending.effect,
            code=ending.code,
        )

    def note_idle(self) -> None:
        if self._book.running == 0:
            self._idle.set()
        self._watchdog.on_free()

    async def wait_idle(self) -> None:
        """Wait until no task runs or is about to start."""
        while self._book.running:
            self._idle.clear()
            await self._idle.wait()

    async def wait_told(self) -> None:
        """Wait until the reporter has the end of each task."""
        while any(entry.phase is not TaskPhase.ENDED for entry in self._book):
            self._told.clear()
            await self._told.wait()

    # Releases.

    def on_release(self, payload: bytes) -> None:
        """Forget attempts whose end the master has stored, except their ids."""
        release = codec.decode_sized(Release, payload)
        if release.epoch < self._lease.epoch:
            raise Refused("epoch_stale", f"a release of epoch {release.epoch}")
        ended = []
        for item in release.items:
            key = (item.command, item.attempt)
            if self._reporter.release(key, item.seq):
                entry = self._book.get(*key)
                if entry is not None:
                    ended.append(entry)
        self._forget(ended)

    def release_now(self, command: str, attempt: int) -> None:
        """Release an ended attempt by a handshake's verdict: its outcome is stored."""
        entry = self._book.get(command, attempt)
        if entry is None or entry.phase not in {TaskPhase.CLOSING, TaskPhase.ENDED}:
            return
        self.discard(entry)

    def give_up(self, entry: TaskEntry) -> None:
        """End an attempt that was released earlier; the master has its end."""
        entry.is_void = True
        active = self._running.active.get(entry.key)
        if active is not None and active.task is not None:
            active.task.stop(State.CANCELLED, "it has ended before", 0.0)
        elif entry.phase in {TaskPhase.CLOSING, TaskPhase.ENDED}:
            self.discard(entry)

    def discard(self, entry: TaskEntry) -> None:
        """Forget an attempt that has ended, without a report."""
        self._reporter.release(entry.key, None)
        self._shipper.drop(entry.key)
        active = self._running.active.pop(entry.key, None)
        if active is not None and active.folder is not None:
            active.folder.close()
        self._forget([entry])

    def _forget(self, entries: list[TaskEntry]) -> None:
        if not entries:
            return
        paths: list[tuple[str, bool]] = []
        for entry in entries:
            self._book.drop(entry)
            if entry.has_folder:
                paths.append((self._folders.name(*entry.key), not entry.has_output))
        self._journal.release(
            [(entry.row, entry.command, entry.attempt, entry.state) for entry in entries],
            (lambda: self._retire(paths)) if paths else None,
        )
        if not len(self._book):
            self._released.set()

    async def wait_released(self) -> None:
        """Wait until every attempt is released: the master has all ends."""
        while len(self._book):
            self._released.clear()
            await self._released.wait()

    def _retire(self, paths: list[tuple[str, bool]]) -> None:
        """Retire folders, in the journal's thread, which owns the list of kept folders."""
        for path, is_empty in paths:
            self._folders.retire(path, empty=is_empty)

    # What an earlier start of the agent left.

    def recover(self, row: AttemptRow) -> None:
        """Take over an attempt of the journal: report its end, or its loss."""
        entry = TaskEntry(row.command, row.attempt, row.row, row.accepted_at, row.kill_after)
        entry.started_at, entry.pid = row.started_at, row.pid
        entry.state, entry.phase = State(row.state), TaskPhase.ENDED
        self._book.add(entry, holds_slot=False)
        report = None if row.report is None else codec.decode_trusted(AttemptReport, row.report)
        if report is not None and row.shipped:
            entry.has_folder = True
            entry.has_output = bool(report.stdout_bytes or report.stderr_bytes)
            self._reporter.add(report, row.report)
            return
        self._recover_output(entry, row, report)

    def tell_again(self, past: ReleasedAttempt) -> None:
        """Report the end of a released attempt again, with the output that is still on disk."""
        kept = self._folders.reopen(past.command, past.attempt)
        if kept is not None:
            kept.close()
        report = AttemptReport(
            command=past.command,
            attempt=past.attempt,
            kind="ended",
            seq=self.next_seq(),
            state=past.state,
            started_at=past.started_at,
            ended_at=past.ended_at,
            exit_code=0 if past.state == State.SUCCEEDED else past.exit_code,
            reason=past.reason,
            stdout_bytes=past.stdout_bytes,
            stderr_bytes=past.stderr_bytes,
            truncated=past.stdout_bytes + past.stderr_bytes > 0,
        )
        row = end_row(
            self._journal.next_row(),
            self._lease.incarnation,
            report,
            codec.encode(report),
            shipped=kept is None,
        )._replace(output_limit=past.output_limit)
        self._journal.take_back(row)
        self.recover(row)

    def _recover_output(
        self, entry: TaskEntry, row: AttemptRow, report: AttemptReport | None
    ) -> None:
        """Send its output before its end is reported; storing output twice is idempotent."""
        entry.phase = TaskPhase.CLOSING
        entry.ending = State.LOST if report is None else State(report.state)
        active = Active(entry, None, row.output_limit)
        active.folder = self._folders.reopen(row.command, row.attempt)
        entry.has_folder = active.folder is not None
        self._running.active[entry.key] = active
        self._await_carrier(active, report, self._loop.time() + CARRIED_S)

    def _await_carrier(self, active: Active, report: AttemptReport | None, until: float) -> None:
        """Wait for the carrier of the previous start, which may still copy the last output."""
        if self._running.active.get(active.entry.key) is not active:
            return  # released meanwhile
        if active.folder is not None and active.folder.is_carried:
            if self._loop.time() < until:
                self._loop.call_later(CARRIED_POLL_S, self._await_carrier, active, report, until)
                return
            active.folder.is_cut = True
        elif active.folder is not None and report is None and active.entry.started_at:
            active.folder.is_cut = not active.folder.was_left_whole
        self._recover_end(active, report)

    def _recover_end(self, active: Active, report: AttemptReport | None) -> None:
        if report is None:
            restarted = "agent" if self._journal.is_same_boot else "host"
            ending = Ending(State.LOST, None, f"{restarted} restarted")
            ended_at = self._clock.now()
        else:
            ending = Ending(
                State(report.state),
                report.exit_code,
                report.reason,
                report.result,
                report.effect,
                report.code,
            )
            ended_at = report.ended_at
        sizes = active.folder.sizes() if active.folder is not None else (0, 0)
        if sum(sizes) <= _inline_limit(active, ending) and not _has_lost(active):
            self._close(active, ending, ended_at, sizes)
        else:
            self._ship_rest(active, ending, ended_at, sizes)


def _has_lost(active: Active) -> bool:
    return active.folder is not None and active.folder.has_lost


def _inline_limit(active: Active, ending: Ending) -> int:
    """Bytes of output that a report may hold beside the result."""
    return min(limits.INLINE_OUTPUT_BYTES - len(ending.result), active.limit_bytes)


def _ignore(outcome: WriteResult) -> None:
    """Ignore the outcome: the next write, at the end of the output, replaces this one."""
