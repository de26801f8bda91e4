"""Takes in run requests: decides, records, answers, and only then starts the task.

  request ─▶ judge ─▶ journal ─▶ answer ─▶ run
               │ rejected,  │ released long ago,
               ▼ duplicate  ▼ or not writable
             answer       answer

Work that may be repeated starts at once, and is recorded with its end if that comes soon.

Callbacks throughout: a request needs no asyncio task, and a burst of requests one group commit, one
write to the socket and one report.
"""

from collections.abc import Callable

import structlog

from broker_agent.core.admission import Admission, AdmissionState, is_foreign, judge
from broker_agent.core.program import Ending
from broker_agent.core.tasks import Refusal, TaskEntry, TaskPhase
from broker_agent.executors.base import NO_WAY, Executor, Instant, Way
from broker_agent.services.reporter import Reporter
from broker_agent.services.resources import ResourceMonitor
from broker_agent.services.runner import Runner
from broker_agent.services.running import Running, Unrecorded
from broker_agent.services.wire import Station
from broker_agent.store.journal import Journal, WriteResult
from broker_agent.store.rows import AttemptRow, end_row
from broker_client.runtime import failpoints
from schemas import codec
from schemas.faults import MeshError, Refused, Unreachable
from schemas.messages.actions import ACTIONS, ActionArgs, decode_args
from schemas.messages.work import AttemptReport, Run, RunReply
from schemas.states import State
from schemas.texts import cut_text

log = structlog.get_logger(__name__)


class Intake:
    """Intake of run requests. accepted, duplicates, rejected: counts of its answers.

    valid_until: returns the end of this agent's certificate, in Unix seconds.
    """

    def __init__(
        self,
        station: Station,
        *,
        journal: Journal,
        running: Running,
        runner: Runner,
        reporter: Reporter,
        room: ResourceMonitor,
        valid_until: Callable[[], float],
    ) -> None:
        self._valid_until = valid_until
        self._wire = station.wire
        self._address = station.address
        self._lease = station.lease
        self._clock = station.clock
        self._book = station.book
        self._journal = journal
        self._running = running
        self._runner = runner
        self._executors = runner.executors
        self._reporter = reporter
        self._room = room
        self.accepted = 0
        self.duplicates = 0
        self.rejected = 0

    def on_run(self, payload: bytes) -> None:
        """Handle one request. Raises Refused for other messages; other faults are answered."""
        run = codec.decode_sized(Run, payload)
        reply_to = self._address.reply(run.token)
        if reply_to is None:
            raise Refused("malformed", "a token that cannot be part of a subject")
        action = ACTIONS.get(run.action)
        takes_slot = action is None or action.takes_slot
        standing = self._standing(run, takes_slot=takes_slot)
        if is_foreign(run, standing):
            raise Refused("attempt_stale", "meant for another session of this identity")
        admission = judge(run, standing)
        if admission.answer != "accepted":
            self._answer(reply_to, run, admission)
            return
        try:
            args = decode_args(run.action, run.args)
            executor = self._executors.find(run.action)
            if isinstance(executor, Executor):
                executor.admit(args, _way(run))
        except Refused as fault:
            self._answer(reply_to, run, _rejection(fault))
            return
        if isinstance(executor, Instant):
            self._accept_ended(run, executor.run(args), reply_to)
        else:
            self._accept(run, executor, args, reply_to)

    def _standing(self, run: Run, *, takes_slot: bool) -> AdmissionState:
        lease, book = self._lease, self._book
        now = self._clock.elapsed()
        lease.on_tick(now)
        sent_at = lease.sent_at(run.beat_seq)
        return AdmissionState(
            epoch=lease.epoch,
            incarnation=lease.incarnation,
            linked=lease.is_linked,
            draining=self._running.is_draining,
            full=book.is_full and takes_slot,
            age_s=None if sent_at is None else now - sent_at,
            start_before_s=lease.timers.start_before_s,
            known=book.known_state(run.command, run.attempt),
            refused=book.refusal(run.command, run.attempt),
            expired=self._clock.now() >= self._valid_until(),
            why_full=self._why_full(takes_slot=takes_slot),
        )

    def _why_full(self, *, takes_slot: bool) -> str:
        if self._reporter.is_backlogged:
            return f"{len(self._reporter)} reports wait for the master"
        return self._room.refusal() if takes_slot else ""

    def _accept(self, run: Run, executor: Executor, args: ActionArgs, reply_to: str) -> None:
        row_number, now, kill_after_s = (
            self._journal.next_row(),
            self._clock.now(),
            run.kill_after_s,
        )
        entry = TaskEntry(run.command, run.attempt, row_number, now, kill_after_s)
        self._book.add(entry, holds_slot=True)
        row = AttemptRow(
            entry.row,
            entry.command,
            entry.attempt,
            self._lease.incarnation,
            State.ACCEPTED,
            accepted_at=entry.accepted_at,
            output_limit=run.output_limit_bytes,
            kill_after=kill_after_s,
        )

        def begin(unrecorded: Unrecorded | None = None) -> None:
            self._runner.begin(
                executor, entry, args, run.output_limit_bytes, run.trace, _way(run), unrecorded
            )

        if executor.is_repeatable(args):
            begin(self._unrecorded(row, entry, run, reply_to))
        else:
            self._record(row, entry, run, reply_to, begin)

    def _unrecorded(self, row: AttemptRow, entry: TaskEntry, run: Run, reply_to: str) -> Unrecorded:
        """Acceptance of work that may be repeated: recorded while it runs, or with its end."""

        def recorded(outcome: WriteResult) -> None:
            if outcome is None:
                self._answer(reply_to, run, Admission("accepted"))
            elif isinstance(outcome, MeshError):
                # Its end is reported all the same; a repeated request finds it in the book.
                log.warning("not_recorded", command_id=run.command, error=outcome.message)
            else:
                self._runner.give_up(entry)
                self._answer(reply_to, run, Admission("duplicate", state=outcome))

        def note_end(state: str | None) -> None:
            if state is None:
                self.accepted += 1
                return
            self._runner.discard(entry)
            self._answer(reply_to, run, Admission("duplicate", state=state))

        return Unrecorded(lambda: self._journal.accept(row, recorded), note_end)

    def _accept_ended(self, run: Run, ending: Ending, reply_to: str) -> None:
        """Record acceptance and end at once; the report is the acknowledgement, too."""
        now = self._clock.now()
        entry = TaskEntry(run.command, run.attempt, self._journal.next_row(), now)
        entry.state = ending.state
        report = AttemptReport(
            command=run.command,
            attempt=run.attempt,
            kind="ended",
            seq=self._runner.next_seq(),
            state=entry.state,
            accepted_at=now,
            started_at=now,
            ended_at=now,
            exit_code=ending.exit_code,
            reason=cut_text(ending.reason),
        )
        raw = codec.encode(report)
        self._book.add(entry, holds_slot=False)

        def tell() -> None:
            self.accepted += 1
            entry.phase = TaskPhase.ENDED
            self._reporter.add_encoded(entry.key, report.seq, raw, is_end=True)

        row = end_row(entry.row, self._lease.incarnation, report, raw, shipped=True)
        self._record(row, entry, run, reply_to, tell, is_told_by_report=True)

    def _record(
        self,
        row: AttemptRow,
        entry: TaskEntry,
        run: Run,
        reply_to: str,
        go_on: Callable[[], None],
        *,
        is_told_by_report: bool = False,
    ) -> None:
        def recorded(outcome: WriteResult) -> None:
            failpoints.reach("agent.journalled_not_acked")
            if outcome is None:
                if not is_told_by_report:
                    self._answer(reply_to, run, Admission("accepted"))
                go_on()
                return
            self._book.drop(entry)
            self._runner.note_idle()
            if isinstance(outcome, MeshError):
                self._answer(reply_to, run, _rejection(outcome))
            else:
                self._answer(reply_to, run, Admission("duplicate", state=outcome))

        self._journal.accept(row, recorded)

    def _answer(self, reply_to: str, run: Run, admission: Admission) -> None:
        if admission.answer == "accepted":
            self.accepted += 1
        elif admission.answer == "duplicate":
            self.duplicates += 1
        else:
            self.rejected += 1
            # Except for a replaced master: its successor may send the same attempt.
            if admission.code != "epoch_stale":
                refusal = Refusal(admission.code, admission.message)
                self._book.refuse(run.command, run.attempt, refusal)
        reply = RunReply(
            command=run.command,
            attempt=run.attempt,
            answer=admission.answer,
            state=admission.state,
            code=admission.code,
            message=cut_text(admission.message),
        )
        try:
            self._wire.publish_nowait(reply_to, codec.encode(reply))
        except Unreachable:
            return  # the master retries and gets the same answer


def _way(run: Run) -> Way:
    return Way(run.connection, run.timeout_s, run.key) if run.connection else NO_WAY


def _rejection(fault: MeshError) -> Admission:
    return Admission("rejected", code=fault.code, message=fault.message)
