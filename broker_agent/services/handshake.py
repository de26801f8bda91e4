"""The handshake: reconciles the tasks of agent and master, before new work.

  hello ─▶ welcome (timers, a verdict per task) ─▶ carried out ─▶ hello (done) ─▶ next heartbeat

A handshake follows each reconnect, each new epoch, and each echo that asks for one.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from msgspec import structs

from broker_agent.core.lease import LeasePhase
from broker_agent.core.tasks import TaskEntry, TaskPhase
from broker_agent.services.heartbeats import Heartbeats
from broker_agent.services.recall import Recall
from broker_agent.services.reporter import Reporter
from broker_agent.services.runner import Runner
from broker_agent.services.running import Running
from broker_agent.services.wire import Station
from schemas import codec, limits
from schemas.faults import Refused, Unreachable
from schemas.messages.liveness import (
    FETCHES_INPUT,
    HEARS_STORED,
    RECALLS,
    Details,
    Hello,
    TaskStatus,
    Welcome,
)
from schemas.states import State

# Pause after a refusal: only an operator can help, and retries would fill the logs.
REFUSED_WAIT_S: Final = 15.0
SUPERSEDED: Final = "superseded"
# Refusals after which this agent has no master, and its tasks have no owner.
OUTCAST: Final = {
    SUPERSEDED: "a newer session of this agent has taken over",
    "agent_revoked": "the agent was revoked",
}
# Longest wait for tasks to end after their grace, before the process kills them and ends.
END_S: Final = 6.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """Facts of this agent for the master.

    certificate: serial and end (Unix seconds) of the one in use. trust: digest of the trusted
    authorities. addresses: digest of the stored addresses of brokers.
    """

    details: Details
    certificate: Callable[[], tuple[str, float]]
    trust: Callable[[], str]
    addresses: Callable[[], str]

    def told(self) -> Details:
        return structs.replace(self.details, addresses=self.addresses())


class Handshake:
    """The agent's side. on_agreed: called with each accepted welcome, to store its content."""

    name = "handshake"

    def __init__(
        self,
        station: Station,
        *,
        running: Running,
        runner: Runner,
        reporter: Reporter,
        heartbeats: Heartbeats,
        recall: Recall,
        introduction: Introduction,
        on_agreed: Callable[[Welcome], None],
    ) -> None:
        self._wire = station.wire
        self._address = station.address
        self._lease = station.lease
        self._clock = station.clock
        self._book = station.book
        self._running = running
        self._runner = runner
        self._recall = recall
        self._reporter = reporter
        self._heartbeats = heartbeats
        self._introduction = introduction
        self._on_agreed = on_agreed
        self._began_at = station.clock.elapsed()
        self._started_at = station.clock.now()
        self._wanted = asyncio.Event()
        self._welcome: Welcome | None = None
        self._welcomed = asyncio.Event()
        self._said_seq = 0
        self.refused = ""
        # Text of the refusal, with the next step for a person.
        self.said = ""

    def ask(self) -> None:
        """Request a handshake; idempotent while one is under way."""
        self._wanted.set()

    def on_unagreed(self, seq: int) -> None:
        """Handle an echo of heartbeat `seq` that asks for a handshake.

        If `seq` is newer than the last hello, that hello was lost while the master was away: send
        another now, and do not wait for the timeout of this round.
        """
        self._wanted.set()
        if seq != self._said_seq:
            self._welcomed.set()

    def on_welcome(self, payload: bytes) -> None:
        welcome = codec.decode(Welcome, payload)
        if welcome.incarnation != self._lease.incarnation:
            raise Refused("attempt_stale", "a welcome to another start of this agent")
        if welcome.epoch < self._lease.epoch:
            raise Refused("epoch_stale", f"a welcome of epoch {welcome.epoch}")
        self._welcome = welcome
        self._welcomed.set()

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while not self._lease.reconciled:
                await self._shake()

    async def _shake(self) -> None:
        """Run one round; after a failure the next begins at most `handshake_s` later."""
        self._welcome = None
        self._welcomed.clear()
        # While tasks are being fenced there is no state to reconcile yet.
        is_fencing = self._lease.phase is LeasePhase.FENCING
        if self._wire.is_connected and not is_fencing:
            self._heartbeats.send()
            self._said_seq = self._lease.seq
            self._say(self._hello())
        try:
            async with asyncio.timeout(self._lease.timers.handshake_s):
                await self._welcomed.wait()
        except TimeoutError:
            return
        welcome = self._welcome
        if welcome is None:
            return
        if welcome.refused:
            await self._be_refused(welcome)
            return
        self.refused = self.said = ""
        recalled: list[TaskStatus] = []
        if welcome.recall:
            recalled = await self._recall.answer(welcome.recall, self._lease.timers.handshake_s)
        if self._lease.phase is LeasePhase.FENCING:
            return
        if self._lease.on_welcome(welcome.epoch, welcome.timers):
            self._on_agreed(welcome)
            self._running.renew_deadlines()
            self._conclude(welcome, recalled)

    async def _be_refused(self, welcome: Welcome) -> None:
        if self.refused != welcome.refused:
            log.error("refused_by_master", code=welcome.refused, reason=welcome.reason)
        self.refused = welcome.refused
        self.said = f"{welcome.refused}: {welcome.reason}" if welcome.reason else welcome.refused
        if welcome.refused in OUTCAST:
            self._running.stop_all(State.KILLED_FENCED, OUTCAST[welcome.refused])
        if welcome.refused == SUPERSEDED:
            await self._leave(welcome)
        try:
            async with asyncio.timeout(REFUSED_WAIT_S):
                await self._wanted.wait()
                self._wanted.clear()
        except TimeoutError:
            return

    async def _leave(self, welcome: Welcome) -> None:
        """End this process: two processes with one identity would disconnect each other forever."""
        self._running.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lease.timers.grace_s + END_S):
                await self._runner.wait_idle()
                await self._runner.wait_told()
        self._reporter.say_last()
        raise Refused(SUPERSEDED, welcome.reason or OUTCAST[SUPERSEDED])

    def _conclude(self, welcome: Welcome, recalled: list[TaskStatus]) -> None:
        for decision in welcome.decisions:
            command, attempt = decision.command, decision.attempt
            if decision.verdict == "kill":
                reason = "the master has given it up"
                self._running.stop(command, attempt, State.CANCELLED, reason)
            elif decision.verdict == "release":
                self._runner.release_now(command, attempt)
            elif decision.verdict == "report":
                self._reporter.send_again((command, attempt))
        if not self._say(self._done(welcome.epoch, recalled)):
            return
        self._lease.on_done()
        self._heartbeats.send_soon()
        self._reporter.send_all_again()
        log.info(
            "reconciled",
            epoch=welcome.epoch,
            running=self._book.running,
            decisions=len(welcome.decisions),
        )

    def _done(self, epoch: int, recalled: list[TaskStatus]) -> Hello:
        return Hello(
            incarnation=self._lease.incarnation,
            epoch=epoch,
            slots=self._book.slots,
            done=True,
            tasks=recalled,
            details=Details(addresses=self._introduction.addresses()),
        )

    def _hello(self) -> Hello:
        now = self._clock.elapsed()
        tasks = [_status(entry) for entry in self._tasks_to_name()]
        serial, not_after = self._introduction.certificate()
        return Hello(
            incarnation=self._lease.incarnation,
            epoch=self._lease.epoch,
            lease_age_s=self._lease.age_s(now),
            started_at=self._started_at,
            uptime_s=now - self._began_at,
            slots=self._book.slots,
            details=self._introduction.told(),
            certificate_serial=serial,
            certificate_not_after=not_after,
            tasks=tasks,
            complete=len(tasks) == len(self._book),
            trust=self._introduction.trust(),
            features=[HEARS_STORED, RECALLS, FETCHES_INPUT],
            actions=self._runner.executors.actions,
        )

    def _tasks_to_name(self) -> list[TaskEntry]:
        """Running attempts, then as many ended attempts as fit."""
        running = [entry for entry in self._book if entry.phase is not TaskPhase.ENDED]
        ended = [entry for entry in self._book if entry.phase is TaskPhase.ENDED]
        return (running + ended)[: limits.HELLO_TASKS]

    def _say(self, hello: Hello) -> bool:
        try:
            self._wire.publish_nowait(self._address.hello, codec.encode(hello))
        except Unreachable:
            return False
        return True


def _status(entry: TaskEntry) -> TaskStatus:
    """A task that has ended is named so also while its last output is under way."""
    state = entry.ending or entry.state
    return TaskStatus(command=entry.command, attempt=entry.attempt, state=state, pid=entry.pid)
