"""The open commands, built from the facts of the event stream.

A replay folds the stored facts exactly as a running master folds each fact that it stores, so a
restarted master has the same state.
"""

from collections import Counter
from collections.abc import Iterator

from broker_master.core.commands import Command
from broker_master.core.fold import fold
from broker_master.core.phases import Phase
from schemas import subjects
from schemas.messages.facts import Accepted, Fact

# Arguments up to this size are usual.
_HEAVY = 4096


def heavy_bytes(accepted: Accepted) -> int:
    """Size of a command's arguments if they are large; 0 for those of the usual size."""
    size = memoryview(accepted.args).nbytes
    return size if size > _HEAVY else 0


class CommandBook:
    """All commands that are open, or ended and not yet in history, in one order."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}
        self._per_group: dict[str, int] = {}
        # Bytes of large arguments, by client.
        self.heavy: Counter[str] = Counter()
        self._replayed: dict[str, dict[subjects.Fact, tuple[Fact, int]]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._commands)

    def __iter__(self) -> Iterator[Command]:
        return iter(list(self._commands.values()))

    def get(self, command_id: str) -> Command | None:
        return self._commands.get(command_id)

    def forget(self, command_id: str) -> None:
        """Drop a command that is in history, or whose fact was refused."""
        command = self._commands.pop(command_id, None)
        if command is not None:
            self._per_group[command.accepted.group] -= 1
            self._lighten(command.accepted)

    def _lighten(self, accepted: Accepted) -> None:
        if size := heavy_bytes(accepted):
            self.heavy[accepted.client] -= size
            if not self.heavy[accepted.client]:
                del self.heavy[accepted.client]

    def open_in(self, group: str) -> int:
        """Number of commands of `group` in the book."""
        return self._per_group.get(group, 0)

    def waiting(self) -> list[Command]:
        """The commands that wait for an agent."""
        return [c for c in self._commands.values() if c.phase is Phase.WAITING]

    def undecided(self) -> list[Command]:
        """Commands whose attempt is lost, and that wait for an operator's decision."""
        return [c for c in self._commands.values() if c.phase is Phase.UNDECIDED]

    def open(self, accepted: Accepted) -> Command:
        """Enter a command before its fact is durable; `forget` it if the fact is refused."""
        self._order += 1
        command = Command(
            accepted=accepted,
            order=self._order,
            expires_at=accepted.submitted_at + accepted.queue_ttl_s,
            since=accepted.submitted_at,
        )
        self._commands[accepted.id] = command
        self._per_group[accepted.group] = self._per_group.get(accepted.group, 0) + 1
        if size := heavy_bytes(accepted):
            self.heavy[accepted.client] += size
        return command

    def replay(self, fact: subjects.Fact, body: Fact, sequence: int) -> Command | None:
        """Fold one fact read back from the stream; None while its command is not known.

        Facts that were carried forward stand behind newer ones in the stream, so a command is
        folded again when an earlier fact comes. Facts without their `accepted` belong to a command
        whose history is written and whose older facts were purged. Call `end_replay` after the last
        fact.
        """
        facts = self._replayed.setdefault(fact.command, {})
        is_next = not facts or _place(fact) > max(map(_place, facts))
        # A second copy is one that was carried forward: same content, newer place.
        facts[fact] = (facts[fact][0] if fact in facts else body, sequence)
        command = self._commands.get(fact.command)
        if command is not None and is_next:
            fold(command, fact, body)
            command.keep_place(subjects.fact(*fact), sequence)
            return command
        return self._fold_anew(fact.command)

    def _fold_anew(self, command_id: str) -> Command | None:
        facts = self._replayed[command_id]
        accepted = facts.get(subjects.Fact(command_id, 0, "accepted"))
        if accepted is None or not isinstance(accepted[0], Accepted):
            return None
        self.forget(command_id)
        command = self.open(accepted[0])
        for fact in sorted(facts, key=_place):
            body, sequence = facts[fact]
            fold(command, fact, body)
            command.keep_place(subjects.fact(*fact), sequence)
        return command

    def end_replay(self) -> None:
        """Drop the data of the replay, and number the commands in order of submission."""
        self._replayed.clear()
        by_age = sorted(self._commands.values(), key=lambda each: each.accepted.submitted_at)
        for self._order, command in enumerate(by_age, 1):
            command.order = self._order


_KINDS = {
    "accepted": 0,
    "cancel": 1,
    "assigned": 2,
    "started": 3,
    "outcome": 4,
    "decided": 5,
    "late": 6,
}


def _place(fact: subjects.Fact) -> tuple[int, int, int]:
    """Place of a fact among those of its command.

    An end without an attempt comes after all attempts. A late report comes last: the attempt that
    it amends has ended by then, so every decision was made before it.
    """
    kind = _KINDS.get(fact.kind, len(_KINDS))
    after = 2 if fact.kind == "late" else int(fact.kind == "outcome" and fact.attempt == 0)
    return after, fact.attempt, kind
