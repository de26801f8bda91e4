"""The shared state of the control plane, used by its services on one event loop.

Everything here is touched from the loop's thread only, and never across an await: a service reads,
decides, changes and returns. Durable changes are in the event stream before any recipient is
notified.
"""

import asyncio
from collections.abc import Collection, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from broker_client.runtime.clock import Clock
from broker_client.runtime.link import Link
from broker_client.runtime.supervise import TaskSet
from broker_master.core.book import CommandBook
from broker_master.core.commands import Command
from broker_master.core.dispatch import Dispatcher
from broker_master.core.fanout_table import FanoutTable
from broker_master.core.liveness import Roster
from broker_master.core.profiles import ProfileTable
from broker_master.core.standing import Standing
from broker_master.core.statuses import Statuses
from broker_master.core.tallies import Tally
from broker_master.settings import MasterSettings
from broker_master.store.facts import FactStore
from broker_master.store.readmodel import ReadModel
from broker_master.store.registry import Registry
from broker_master.telemetry import Telemetry
from schemas import addresses
from schemas.messages.audit import DETAIL_LEN, GROUPS_MAX, Actor, AuditEntry, Result
from schemas.messages.registry import AgentEntry
from schemas.texts import cut_text
from schemas.timers import Timers

# For a command that was open in a restored state, without a report of any agent.
OPEN_IN_BACKUP = (
    "and it was open in the backup that the master's state was restored from: whether and how it"
    " ended since is not known"
)


def one_or_many(groups: Collection[str]) -> tuple[str, list[str]]:
    """`group` and `groups` of an audit entry; empty for none, or for more than the limit."""
    if len(groups) == 1:
        return next(iter(groups)), []
    return "", [] if len(groups) > GROUPS_MAX else sorted(groups)


@dataclass(frozen=True, kw_only=True)
class MasterFacts:
    """One start of a master. epoch: grows with every start; agents refuse an older one.

    mesh: id of the mesh. urls: addresses of the broker for agents and clients. started_at: Unix
    time.
    """

    mesh: str
    epoch: int
    urls: list[str]
    started_at: float


@dataclass(kw_only=True)
class Plane:
    """State of the control plane, shared by its services.

    doubtful: commands that were open in a restored state, and may have ended since. shut_out:
    senders whose messages are dropped since a key of theirs is shut out, each with the end in Unix
    time. waiters: by command, futures that are set when it ends.
    """

    settings: MasterSettings
    clock: Clock
    link: Link
    facts: FactStore
    readmodel: ReadModel
    registry: Registry
    roster: Roster
    tasks: TaskSet
    master: MasterFacts
    telemetry: Telemetry
    book: CommandBook = field(default_factory=CommandBook)
    dispatcher: Dispatcher = field(default_factory=Dispatcher)
    fanouts: FanoutTable = field(default_factory=FanoutTable)
    waiters: dict[str, list["asyncio.Future[None]"]] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    shut_out: dict[str, float] = field(default_factory=dict)
    profiles: ProfileTable = field(default_factory=ProfileTable)
    statuses: Statuses = field(init=False)

    def __post_init__(self) -> None:
        self.statuses = Statuses(
            self.telemetry.on_status,
            self.telemetry.on_group_status,
            self.telemetry.on_connection_status,
        )

    @property
    def timers(self) -> Timers:
        return self.settings.timers

    def judge(self, entry: AgentEntry) -> Standing:
        """The status of an agent now, with its cause; a change of it is noted."""
        presence, left_s = self.roster.get(entry.name), 0.0
        if presence is not None:
            left_s = self.roster.given_up_in_s(presence, now_s=self.clock.elapsed())
        return self.statuses.judge(
            entry,
            presence,
            self.clock.now(),
            tasks_left=self.dispatcher.load(entry.name),
            given_up_in_s=left_s,
        )

    def tell_command(self, command: Command, what: str = "") -> None:
        """Note the event that a command is in a new state, or `what` happened to it."""
        accepted, attempt = command.accepted, command.attempt
        self.telemetry.eventlog.add(
            "command",
            command.id,
            accepted.group,
            what or str(command.state),
            at=self.clock.now(),
            agent=attempt.agent if attempt is not None else accepted.agent,
            client=accepted.client,
            detail=command.reason,
        )

    def addresses_of(self, said: str) -> str:
        """Result of the comparison of a reported digest of addresses with the present ones."""
        if not said:
            return "unknown"
        return "current" if said == addresses.digest(self.master.urls) else "other"

    def spawn(self, coro: Coroutine[Any, Any, None], owner: str = "") -> None:
        """Run a short task; Refused (`queue_full`) if too many are running already.

        owner: the sender whose message caused it; its tasks are a bounded share of all.
        """
        _ = self.tasks.spawn(coro, owner)

    @contextmanager
    def timed_write(self, operation: str) -> Iterator[None]:
        """Observe the time of a write, if it succeeds."""
        began_s = self.clock.elapsed()
        yield
        self.telemetry.measures.store_writes[operation].observe(self.clock.elapsed() - began_s)

    def note(
        self,
        action: str,
        target: str = "",
        *,
        by: str = "master",
        actor: Actor = "master",
        result: Result = "done",
        code: str = "",
        detail: str = "",
    ) -> None:
        """Put an act or an alarm into the audit trail; returns at once and never fails.

        action: `noun.what`, from a closed set, such as `agent.enrolled`. detail: no secret.
        """
        group, groups = self.groups_of(action, target)
        entry = AuditEntry(
            at=self.clock.now(),
            by=by,
            actor=actor,
            action=action,
            target=target,
            group=group,
            groups=groups,
            result=result,
            code=code,
            detail=cut_text(detail, DETAIL_LEN),
            epoch=self.master.epoch,
        )
        self.telemetry.noted(entry)

    def groups_of(self, action: str, target: str) -> tuple[str, list[str]]:
        """The group of a target, or those of a fan-out over several; as `AuditEntry` has them."""
        if action.partition(".")[0] != "fanout":
            return self.group_of(action, target), []
        return one_or_many(self.fanouts.groups(target))

    def group_of(self, action: str, target: str) -> str:
        """The group of the target of an act; empty if there is none."""
        noun = action.partition(".")[0]
        if noun == "group":
            return target
        if noun == "agent" and target in self.registry.agents:
            return self.registry.agents[target].group
        command = self.book.get(target) if noun in ("command", "deadletter") else None
        return command.accepted.group if command is not None else ""

    def count(self, tally: Tally, *labels: str) -> None:
        """As `Telemetry.count`."""
        self.telemetry.count(tally, *labels)
