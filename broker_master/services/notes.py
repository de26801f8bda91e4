"""Faults of the mesh as a whole: a line each, for `mesh status` and `mesh doctor`."""

from typing import Final

from broker_master.core.findings import Findings
from broker_master.core.rights import may_see
from broker_master.plane import Plane
from broker_master.store.facts import EVENTS
from schemas import limits
from schemas.counting import counted
from schemas.messages.registry import ClientEntry
from schemas.moments import rfc3339

_DISK_FREE: Final = 0.1
_FULL: Final = 0.9
_LAG_S: Final = 30.0
_NAMED: Final = 3


def notes(plane: Plane, caller: ClientEntry, findings: Findings, history_lag_s: float) -> list[str]:
    """Lines from the latest measurements. Agents only if `caller` may see them."""
    said = []
    if findings.disk_free is not None and findings.disk_free < _DISK_FREE:
        said.append(f"the master's disk is {1 - findings.disk_free:.0%} full: free some space")
    size = findings.streams.get(EVENTS)
    if size is not None and size.size_bytes > _FULL * plane.settings.limits.event_bytes:
        said.append(f"stream {EVENTS} is nearly full: raise limits.event_bytes")
    if plane.link.max_payload < limits.BROKER_PAYLOAD_BYTES:
        said.append(
            f"the broker takes messages of {plane.link.max_payload} bytes only:"
            f" set max_payload: {limits.BROKER_PAYLOAD_BYTES}"
        )
    if history_lag_s > _LAG_S:
        said.append(f"history is {history_lag_s:.0f} s behind: see the broker's disk")
    if lost := plane.telemetry.tallied("audit", "lost"):
        said.append(f"{lost} entries of the audit trail are in the master's log only")
    refused = plane.telemetry.tallied("history")
    if refused:
        said.append(
            f"{counted(refused, 'record')} of history too large for the broker:"
            " see mesh audit list --action history"
        )
    return [
        *said,
        *_shut_out(plane, caller),
        *_epochs(plane, caller),
        *_addresses(plane, caller),
        *_duplicates(plane, caller),
    ]


def _shut_out(plane: Plane, caller: ClientEntry) -> list[str]:
    if caller.groups:
        return []
    return [
        f"{name} is shut out until {rfc3339(until)} since it sends far too much:"
        " see mesh audit list --result alarm"
        for name, until in sorted(plane.shut_out.items())[:_NAMED]
    ]


def _epochs(plane: Plane, caller: ClientEntry) -> list[str]:
    """Agents that refuse this master, and commands awaiting a decision after a restore."""
    said = []
    refusing = sorted(
        presence.agent
        for presence in plane.roster
        if presence.obeys and may_see(caller, _group(plane, presence.agent))
    )
    if refusing:
        named = ", ".join(refusing[:_NAMED]) + (" …" if len(refusing) > _NAMED else "")
        epoch = max(presence.obeys for presence in plane.roster)
        said.append(
            f"agents refuse this master, since they have obeyed a newer one: {named}; if its state"
            f" was put back: broker-master restore --state-dir D --above {epoch}, and start it"
        )
    if plane.doubtful:
        said.append(
            f"restored from a backup: {len(plane.doubtful)} commands of it wait for what agents say"
        )
    return said


def _addresses(plane: Plane, caller: ClientEntry) -> list[str]:
    """Agents that look for brokers at other addresses: they would not find a moved broker."""
    elsewhere = sorted(
        presence.agent
        for presence in plane.roster
        if presence.reconciled
        and plane.addresses_of(presence.addresses) == "other"
        and may_see(caller, _group(plane, presence.agent))
    )
    if not elsewhere:
        return []
    named = ", ".join(elsewhere[:_NAMED]) + (" …" if len(elsewhere) > _NAMED else "")
    where = f"agents look for brokers elsewhere than at {', '.join(plane.master.urls)}: {named}"
    return [f"{where}; see whether --urls or the setting urls is given there, and their logs"]


def _duplicates(plane: Plane, caller: ClientEntry) -> list[str]:
    twice = sorted(
        presence.agent
        for presence in plane.roster
        if presence.is_contested and may_see(caller, _group(plane, presence.agent))
    )
    if not twice:
        return []
    named = ", ".join(twice[:_NAMED]) + (" …" if len(twice) > _NAMED else "")
    return [f"two hosts with one identity: {named}; see mesh audit list --result alarm"]


def _group(plane: Plane, agent: str) -> str:
    entry = plane.registry.agents.get(agent)
    return entry.group if entry is not None else ""
