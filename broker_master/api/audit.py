"""`audit.list`, and the entry that each changing call leaves in the audit trail."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from broker_client.runtime.stream_pages import Stored
from broker_client.runtime.streams import Streams
from broker_master.api.operations import Operation, Operations
from broker_master.core.records import first_arguments
from broker_master.core.rights import may_see_all
from broker_master.core.strays import Strays
from broker_master.plane import Plane, one_or_many
from broker_master.store.facts import AUDIT
from schemas import codec, subjects
from schemas.argv import base_name
from schemas.faults import MeshError, Refused
from schemas.messages.api import AuditPage, AuditQuery, AuditRecord, Done
from schemas.messages.audit import DETAIL_LEN, AuditEntry, Result
from schemas.messages.fanouts import FanoutSubmit
from schemas.messages.registry import ClientEntry
from schemas.moments import rfc3339
from schemas.programs import arguments_of
from schemas.texts import cut_text
from schemas.verbs import AUDIT_LIST

Record = Callable[[AuditEntry], Awaitable[None]]

# Fields of a request that the trail shows. Names only: no key, token or argument can slip in.
_TOLD: Final = (
    "group", "agent", "groups", "role", "now", "decision", "new_id", "ttl_s", "note", "until_s",
    "step", "force", "silent_for_s", "dry_run", "slots", "failed", "silent", "filter",
)  # fmt: skip
_TARGETS: Final = ("name", "id", "agent", "group", "step")
_PAGE: Final = 500
# Pages that a request may read at most; the cursor leads on from there.
_PAGES_MAX: Final = 10
_ANSWER_BYTES: Final = 200 * 1024


class AuditTrail:
    def __init__(self, plane: Plane, record: Record) -> None:
        self._plane = plane
        self._record = record

    async def audited(
        self, operation: Operation, caller: ClientEntry, request: msgspec.Struct
    ) -> msgspec.Struct:
        """Run an operation, and return its answer once the entry in the audit trail is durable."""
        entry = self._entry(operation.verb.name, caller, request)
        try:
            answer = await operation.handler(caller, request)
        except MeshError as error:
            result: Result = "failed" if error.effect == "unknown" else "refused"
            await self._record(_told(entry, result, error.message, error.code))
            raise
        await self._record(_answered(entry, answer))
        return answer

    def _entry(self, action: str, caller: ClientEntry, request: msgspec.Struct) -> AuditEntry:
        """Built before the call, since a delete may remove the group of its target."""
        plane = self._plane
        target = _target(request)
        group, groups = plane.groups_of(action, target)
        if isinstance(request, FanoutSubmit) and not (group or groups):
            group, groups = one_or_many(self._groups_of(request))
        return AuditEntry(
            at=plane.clock.now(),
            by=caller.name,
            action=action,
            target=target,
            group=getattr(request, "group", None) or group,
            groups=groups,
            detail=_joined(_program(plane, action, target), _asked(request), ", "),
            epoch=plane.master.epoch,
        )

    def _groups_of(self, request: FanoutSubmit) -> set[str]:
        agents = self._plane.registry.agents
        return {agents[name].group for name in request.agents if name in agents}


def _joined(one: str, other: str, between: str) -> str:
    return between.join(part for part in (one, other) if part)


def _program(plane: Plane, action: str, target: str) -> str:
    """Base name of a command's program, without its arguments."""
    if action.partition(".")[0] not in ("command", "deadletter"):
        return ""
    command = plane.book.get(target)
    if command is not None:
        given = arguments_of(command.accepted.action, command.accepted.args)
        argv = given.argv if given is not None else []
    else:
        history = plane.readmodel.look_up(target)
        argv = [] if history is None else first_arguments(history)
    return f"program={base_name(argv)}" if argv else ""


def _target(request: msgspec.Struct) -> str:
    return next((str(v) for f in _TARGETS if (v := getattr(request, f, None))), "")


def _asked(request: msgspec.Struct) -> str:
    """Parameters of a request beside its target: the fields that differ from their defaults."""
    target = _target(request)
    fields = {name: getattr(request, name, None) for name in _TOLD}
    return ", ".join(
        f"{name}={_spelled(value)}" for name, value in fields.items() if value and value != target
    )


def _spelled(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _answered(entry: AuditEntry, answer: msgspec.Struct) -> AuditEntry:
    if not isinstance(answer, Done):
        return entry
    return _told(entry, "done" if answer.changed else "unchanged", answer.message)


def _told(entry: AuditEntry, result: Result, said: str, code: str = "") -> AuditEntry:
    detail = cut_text(_joined(entry.detail, said, "; "), DETAIL_LEN)
    return msgspec.structs.replace(entry, result=result, code=code, detail=detail)


class AuditOperations:
    def __init__(self, streams: Streams, strays: Strays) -> None:
        self._streams = streams
        self._strays = strays

    def register(self, operations: Operations) -> None:
        operations.add(AUDIT_LIST, self.find)

    async def find(self, caller: ClientEntry, wanted: AuditQuery) -> AuditPage:
        """Read the stream backwards, page by page, from the cursor on."""
        info = await self._streams.info(AUDIT)
        end = info.last_seq if wanted.cursor is None else min(wanted.cursor - 1, info.last_seq)
        found: list[AuditRecord] = []
        size_bytes = 0
        for _ in range(_PAGES_MAX):
            for stored in reversed(await self._before(end, info.first_seq)):
                entry = self._entry(stored)
                if entry is None:
                    continue
                if wanted.since is not None and entry.at < wanted.since:
                    return AuditPage(entries=found)
                if _matches(entry, wanted, caller):
                    size_bytes += len(stored.data) + 200
                    found.append(_record(stored.seq, entry))
                if len(found) == wanted.limit or size_bytes > _ANSWER_BYTES:
                    return _page(found, stored.seq, info.first_seq)
            end -= _PAGE
            if end < info.first_seq:
                return AuditPage(entries=found)
        return _page(found, end + 1, info.first_seq)

    def _entry(self, stored: Stored) -> AuditEntry | None:
        """None for an entry that cannot be read or has the wrong subject; the others are shown."""
        try:
            entry = codec.decode_trusted(AuditEntry, stored.data)
            if stored.subject != subjects.audit(entry.action.partition(".")[0]):
                raise Refused("malformed", f"an entry of {entry.action}")
        except Refused as error:
            self._strays.note(AUDIT, stored.seq, stored.subject, error)
            return None
        return entry

    async def _before(self, end: int, first: int) -> list[Stored]:
        """Up to a page of messages that ends with sequence `end`."""
        start = max(end - _PAGE + 1, first)
        if end < start:
            return []
        page = await self._streams.read_from(AUDIT, start, batch=end - start + 1)
        return [stored for stored in page.messages if stored.seq <= end]


def _page(found: list[AuditRecord], last: int, first: int) -> AuditPage:
    return AuditPage(entries=found, cursor=last if last > first else None)


def _matches(entry: AuditEntry, wanted: AuditQuery, caller: ClientEntry) -> bool:
    groups = entry.groups or [entry.group]
    if not may_see_all(caller, groups):
        return False
    return (
        wanted.by in (None, entry.by)
        and wanted.action in (None, entry.action, entry.action.partition(".")[0])
        and wanted.target in (None, entry.target)
        and (wanted.group is None or wanted.group in groups)
        and wanted.result in (None, entry.result)
        and (wanted.until is None or entry.at <= wanted.until)
    )


def _record(seq: int, entry: AuditEntry) -> AuditRecord:
    return AuditRecord(
        seq=seq,
        at=rfc3339(entry.at),
        by=entry.by,
        actor=entry.actor,
        address=entry.address,
        action=entry.action,
        target=entry.target,
        group=", ".join(entry.groups) or entry.group,
        result=entry.result,
        code=entry.code,
        detail=entry.detail,
    )
