"""Table of tasks in memory that agent and warden share; the agent alone writes it.

A task is entered at its start and cleared at its end. Neither wakes the warden, which reads the
table when a deadline may have passed. The table outlives the agent.

A record is written state last and cleared state first. A concurrent reader sees a free record, or
one with a process that differs from the record, which the warden checks before it acts.
"""

import os
import struct

# renewed_at, grace_s, slack_s, tick_s, is_over, used: number of places ever taken
_HEADER = struct.Struct("=ddddqq")
# pid, start, after_s, kill_at, name, state
_RECORD = struct.Struct("=qqdd80sq")
_HEADER_BYTES = 64
_FREE = b"\0" * 8
_STATE_AT = _RECORD.size - 8
NEVER = -1.0


class TaskRecord:
    """One task. Times are readings of the monotonic clock, in seconds.

    name: `<command>.<attempt>`. pid: 0 before its start. start: of the process, in ticks; 0:
    unknown. after_s: seconds from the last renewal of the lease to the task's deadline. kill_at:
    time of the KILL after a stop by the agent; 0: no stop.
    """

    __slots__ = ("after_s", "kill_at", "name", "pid", "slot", "start")

    def __init__(self, slot: int, pid: int, start: int, after_s: float, name: str) -> None:
        self.slot = slot
        self.pid = pid
        self.start = start
        self.after_s = after_s
        self.kill_at = 0.0
        self.name = name

    @property
    def key(self) -> tuple[int, str]:
        return self.slot, self.name

    @property
    def marks(self) -> set[bytes]:
        """Marks in the initial environment of each of its processes."""
        command, _, attempt = self.name.rpartition(".")
        return {f"MESH_COMMAND={command}".encode(), f"MESH_ATTEMPT={attempt}".encode()}


class TableView:
    """Copy of the table at one moment."""

    __slots__ = ("grace_s", "is_over", "records", "renewed_at", "slack_s", "tick_s")

    renewed_at: float
    grace_s: float
    slack_s: float
    tick_s: float

    def __init__(self, data: bytes) -> None:
        header = _HEADER.unpack_from(data)
        self.renewed_at, self.grace_s, self.slack_s, self.tick_s = header[:4]
        self.is_over = bool(header[4])
        self.records = [
            record
            for at in range(_HEADER_BYTES, len(data) - _RECORD.size + 1, _RECORD.size)
            if (record := _read(data, at)) is not None
        ]


def _read(data: bytes, at: int) -> TaskRecord | None:
    pid, start, after_s, kill_at, name, state = _RECORD.unpack_from(data, at)
    if not state:
        return None
    slot = (at - _HEADER_BYTES) // _RECORD.size
    record = TaskRecord(slot, pid, start, after_s, name.rstrip(b"\0").decode("ascii", "replace"))
    record.kill_at = kill_at
    return record


def read_table(fd: int) -> TableView:
    """Read the part that was ever used: an agent may have a hundred thousand slots."""
    header = os.pread(fd, _HEADER_BYTES, 0)
    used = _HEADER.unpack_from(header)[5]
    return TableView(header + os.pread(fd, used * _RECORD.size, _HEADER_BYTES))


class WardenTable:
    """The agent's side of the table. The warden inherits `fd`."""

    def __init__(self, slots: int) -> None:
        self.fd = os.memfd_create("warden", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, _HEADER_BYTES + slots * _RECORD.size)
        self._free = list(range(slots - 1, -1, -1))
        self._taken: dict[int, TaskRecord] = {}
        self._header = (NEVER, 0.0, 0.0, 1.0)
        self._used = 0
        self._write_header()

    def __len__(self) -> int:
        return len(self._taken)

    def renew(self, renewed_at: float, *, grace_s: float, slack_s: float, tick_s: float) -> None:
        """Write the lease and its timers; no write if nothing has changed."""
        header = (renewed_at, grace_s, slack_s, tick_s)
        if header != self._header:
            self._header = header
            self._write_header()

    def end(self) -> None:
        """Note the orderly end of the agent: the warden has no tasks to end."""
        self._write_header(is_over=True)

    def enter(self, name: str, after_s: float) -> int:
        """Enter a task; returns its place, valid until `clear`, or -1 if the table is full."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self._write(TaskRecord(slot, 0, 0, after_s, name))
        if slot >= self._used:
            self._used = slot + 1
            self._write_header()
        return slot

    def note_process(self, slot: int, pid: int, start: int) -> None:
        record = self._taken.get(slot)
        if record is not None:
            record.pid, record.start = pid, start
            self._write(record)

    def note_after(self, slot: int, after_s: float) -> None:
        record = self._taken.get(slot)
        if record is not None and record.after_s != after_s:
            record.after_s = after_s
            self._write(record)

    def note_kill(self, slot: int, kill_at: float) -> None:
        record = self._taken.get(slot)
        if record is not None:
            record.kill_at = kill_at
            self._write(record)

    def clear(self, slot: int) -> None:
        if self._taken.pop(slot, None) is not None:
            os.pwrite(self.fd, _FREE, self._at(slot) + _STATE_AT)
            self._free.append(slot)

    def close(self) -> None:
        os.close(self.fd)

    def _write_header(self, *, is_over: bool = False) -> None:
        os.pwrite(self.fd, _HEADER.pack(*self._header, is_over, self._used), 0)

    def _write(self, record: TaskRecord) -> None:
        self._taken[record.slot] = record
        name = record.name.encode()
        fields = (record.pid, record.start, record.after_s, record.kill_at, name, 1)
        os.pwrite(self.fd, _RECORD.pack(*fields), self._at(record.slot))

    @staticmethod
    def _at(slot: int) -> int:
        return _HEADER_BYTES + slot * _RECORD.size
