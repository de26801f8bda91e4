"""Receives agents' reports on their attempts, makes them durable, and releases them.

A report is about attempts on its sender: the subject names the sender, and a report on another
agent's attempt is refused and counted.
"""

import asyncio
from collections.abc import Callable, Collection

import structlog

from broker_client.runtime import failpoints
from broker_master.core import attempts, ends, results
from broker_master.core.commands import Attempt, Command
from broker_master.core.fit import fit_outcome
from broker_master.core.lastline import explained
from broker_master.core.phases import HELD, Event
from broker_master.plane import Plane
from broker_master.services.lastlines import LastLines
from broker_master.services.late_results import LateResults
from broker_master.services.transmit import Transmitter
from schemas import codec, limits, subjects
from schemas.faults import Unreachable
from schemas.messages.facts import Outcome
from schemas.messages.work import (
    PROBE_ATTEMPT,
    AttemptReport,
    ControlReply,
    Release,
    Released,
    Report,
    RunReply,
)
from schemas.states import AGENT_ENDS, State

log = structlog.get_logger()

_ENDS = {str(state): state for state in AGENT_ENDS}


class Reports:
    """Receiver of agents' answers and reports.

    on_order_reply: takes agent, token and answer; returns whether a caller awaits that answer.
    on_took: called with an agent that has answered a request to run a task.
    """

    def __init__(
        self,
        plane: Plane,
        transmitter: Transmitter,
        late: LateResults,
        lines: LastLines,
        *,
        on_order_reply: Callable[[str, str, ControlReply], bool],
        on_took: Callable[[str], None],
    ) -> None:
        self._plane = plane
        self._late = late
        self._lines = lines
        self._transmitter = transmitter
        self._releases: dict[tuple[str, str], list[Released]] = {}
        self._on_order_reply = on_order_reply
        self._on_took = on_took

    # -- answers to requests

    def on_reply(self, up: subjects.Up, payload: bytes) -> None:
        """Handle an answer to `run` or `control`; its own fields show which."""
        if b"\xa6answer" not in payload:
            self._on_control_reply(up, codec.decode_sized(ControlReply, payload))
            return
        reply = codec.decode_sized(RunReply, payload)
        failpoints.reach("master.sent_not_recorded")
        self._on_took(up.agent)
        found = self._find(up.agent, reply.command, reply.attempt)
        if found is None:
            return
        command, attempt = found
        if reply.answer == "rejected":
            # A later transmission of this attempt may have been accepted since: its answer counts.
            if up.rest == (attempt.token,):
                self._on_rejected(command, attempt, reply)
            return
        if reply.answer == "duplicate" and command.phase in HELD and attempt.is_open:
            self._plane.count("duplicate", "agent", "suppressed")
        now = self._plane.clock.now()
        self._transmitter.perform(command, attempts.on_acknowledged(command, attempt, now))

    def _on_rejected(self, command: Command, attempt: Attempt, reply: RunReply) -> None:
        def has_other(agents: Collection[str]) -> bool:
            dispatcher, accepted = self._plane.dispatcher, command.accepted
            needs = dispatcher.needs(accepted)
            return dispatcher.has_ready(accepted.group, needs, avoid=agents)

        now = self._plane.clock.now()
        effects = ends.on_rejected(command, attempt, reply.code, reply.message, has_other, now)
        self._transmitter.perform(command, effects)

    def _on_control_reply(self, up: subjects.Up, reply: ControlReply) -> None:
        if self._on_order_reply(up.agent, up.rest[0], reply):
            return
        if reply.kind != "cancel" or reply.known:
            return
        found = self._find(up.agent, reply.command, reply.attempt)
        if found is None:
            return
        command, attempt = found
        if command.id in self._plane.doubtful:
            return  # it may have ended there since the backup: a missing start proves nothing
        now = self._plane.clock.now()
        self._transmitter.perform(command, ends.on_not_known(command, attempt, now))

    # -- reports

    def on_report(self, up: subjects.Up, payload: bytes) -> None:
        report = codec.decode_sized(Report, payload)
        failpoints.reach("master.report_received")
        presence = self._plane.roster.get(up.agent)
        is_old = presence is not None and report.incarnation in presence.older
        for item in report.items:
            if is_old and not self._is_elsewhere(item):
                # A newer process has this identity, and reports the content of its journal.
                self._plane.count("stale_incarnation")
                continue
            self._on_item(up, item)
        self.flush()

    def _is_elsewhere(self, item: AttemptReport) -> bool:
        command = self._plane.book.get(item.command)
        attempt = command.find(item.attempt) if command is not None else None
        return attempt is not None and attempt.elsewhere_s > 0

    def _on_item(self, up: subjects.Up, item: AttemptReport) -> None:
        if item.attempt == PROBE_ATTEMPT:
            self._on_took(up.agent)
            self._release(up, item)
            return
        command = self._plane.book.get(item.command)
        if command is None:
            self._on_ended_command(up, item)
            return
        attempt = command.find(item.attempt)
        if attempt is None or attempt.agent != up.agent:
            self._plane.count("forged_report")
            log.warning("report_refused", agent=up.agent, command_id=item.command)
            return
        if attempt.state is State.SENT:
            self._on_took(up.agent)
        if item.kind == "started":
            attempts.on_started(command, attempt, item, self._plane.clock.now())
            self._release(up, item)
        elif command.has_open(attempt, Event.ENDED):
            self._on_ended(up, command, attempt, item)
        elif not attempt.is_open:
            outcome = self._outcome(up, item, attempt.sent)
            if outcome is not None:
                self._late.take(command, attempt, outcome, lambda: self._release_later(up, item))

    def _on_ended_command(self, up: subjects.Up, item: AttemptReport) -> None:
        """The history of the command is written, and the report may amend it; or it is unknown."""
        if item.kind == "started":
            self._release(up, item)
            return
        outcome = self._outcome(up, item, 0)
        if outcome is not None:
            self._late.take_ended(
                item.command, item.attempt, outcome, lambda: self._release_later(up, item)
            )

    def _on_ended(
        self, up: subjects.Up, command: Command, attempt: Attempt, item: AttemptReport
    ) -> None:
        outcome = self._outcome(up, item, attempt.sent)
        if outcome is None:
            return

        def settle(explained: Outcome) -> None:
            effects = ends.on_ended(command, attempt, explained)
            self._transmitter.perform(command, effects, lambda: self._release_later(up, item))

        self._lines.explain(up, item, outcome, settle)

    def _outcome(self, up: subjects.Up, item: AttemptReport, sent: int) -> Outcome | None:
        """The report as a fact; None for an end that an agent cannot know."""
        state = _ENDS.get(item.state)
        if state is None:
            self._plane.count("unknown_state")
            log.warning("report_refused", agent=up.agent, command_id=item.command, state=item.state)
            return None
        outcome = explained(
            Outcome(
                state=state,
                at=self._plane.clock.now(),
                agent=up.agent,
                accepted_at=item.accepted_at,
                started_at=item.started_at,
                ended_at=item.ended_at,
                exit_code=item.exit_code,
                reason=item.reason,
                sent=sent,
                stdout_bytes=item.stdout_bytes,
                stderr_bytes=item.stderr_bytes,
                output=item.output,
                truncated=item.truncated,
                late=self._is_late(up.agent, item.ended_at),
                result=self._result(up, item),
                effect=item.effect,
                code=item.code,
            )
        )
        return fit_outcome(outcome)

    def _result(self, up: subjects.Up, item: AttemptReport) -> bytes:
        """The result of an action, unless it is no map of plain values."""
        if item.result and results.read(item.result) is None:
            self._plane.count("malformed", "result")
            log.warning("result_refused", agent=up.agent, command_id=item.command)
            return b""
        return item.result

    def _is_late(self, agent: str, ended_at: float) -> bool:
        """Whether it came later than a silence is detected; by the agent's clock, corrected."""
        presence = self._plane.roster.get(agent)
        skew_s = presence.clock_skew_s if presence is not None else 0.0
        now = self._plane.clock.now()
        return bool(ended_at) and now - (ended_at - skew_s) > self._plane.timers.suspect_s

    # -- releasing

    def _release(self, up: subjects.Up, item: AttemptReport) -> None:
        items = self._releases.setdefault((up.group, up.agent), [])
        items.append(Released(command=item.command, attempt=item.attempt, seq=item.seq))

    def _release_later(self, up: subjects.Up, item: AttemptReport) -> None:
        """Outcomes of one batch become durable together: their releases are sent together."""
        if not self._releases:
            asyncio.get_running_loop().call_soon(self.flush)
        self._release(up, item)

    def flush(self) -> None:
        releases, self._releases = self._releases, {}
        for (group, agent), items in releases.items():
            for start in range(0, len(items), limits.REPORT_ITEMS):
                part = Release(
                    epoch=self._plane.master.epoch, items=items[start : start + limits.REPORT_ITEMS]
                )
                self._publish(group, agent, codec.encode(part))

    def _publish(self, group: str, agent: str, payload: bytes) -> None:
        try:
            self._plane.link.publish_nowait(subjects.down(group, agent, "release"), payload)
        except Unreachable:
            # The agent reports again after the reconnect and gets its release then.
            self._plane.count("publish_failed", "release")

    def _find(self, agent: str, command_id: str, number: int) -> tuple[Command, Attempt] | None:
        """The attempt that a report is about, if it is the sender's own."""
        command = self._plane.book.get(command_id)
        attempt = command.find(number) if command is not None else None
        if command is None or attempt is None:
            return None
        if attempt.agent != agent:
            self._plane.count("forged_reply")
            return None
        return command, attempt
