"""`broker-agent doctor`: checks this host's disk, the broker and the master, step by step.

The check uses a second connection beside a running agent, and sends no heartbeat and no hello.
"""

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from broker_agent.executors.account import UserAccount, closed_way, find_account
from broker_agent.executors.cells import find_parent
from broker_agent.executors.process_groups import check_host
from broker_agent.services.status import AgentState, read_status
from broker_agent.settings import AgentSettings
from broker_agent.store.identity_slots import AgentFacts, IdentitySlots
from broker_agent.store.journal import check_journal_files
from broker_client.cli.doctor import way
from broker_client.cli.doctor.findings import Findings, Trouble
from broker_client.runtime.files import lock_directory, os_errors, read_bytes
from broker_client.runtime.identity import CERT_FILE, Identity
from broker_client.runtime.link import Link
from schemas.faults import MeshError, Refused
from schemas.permissions import AGENT
from schemas.subjects import inbox_prefix

SLOW_S: Final = 0.5
_SET_UP: Final = "set it up again: `mesh agent token NAME`, then `broker-agent setup`"
# Bits that let other users read or write. Search is allowed: tasks reach their own folders.
_OTHERS: Final = 0o066
_PAGE: Final = b"\0" * 4096


def examine(
    state_dir: Path, settings: AgentSettings, timeout_s: float, findings: Findings
) -> Findings:
    """Run all checks in order. Checks that depend on a failed one are reported as skipped."""
    folder = findings.look("state directory", _folder, state_dir)
    findings.look("mode", _mode, folder)
    findings.look("processes of tasks", _processes, folder)
    findings.look("user of tasks", lambda path: _user(path, settings.tasks.user), folder)
    findings.look("ends of tasks", lambda path: _ends(path, settings), folder)
    facts = findings.look("identity", _facts, folder)
    findings.look("disk", lambda path: _disk(path, settings.disk_free), folder)
    findings.look("journal", _journal, folder)
    identity = findings.look("credentials", lambda facts: _identity(state_dir, facts), facts)
    held = IdentitySlots(state_dir).current / CERT_FILE if identity else None
    findings.look("certificate and clock", lambda p: way.certificate(read_bytes(p), _SET_UP), held)
    urls = settings.urls or (facts.urls if facts else ())
    reached = way.reached(findings, urls, identity, timeout_s)
    visit = _Visit(facts, identity, urls, timeout_s) if facts and identity and reached else None
    seen = findings.look("login at the broker", _log_in, visit)
    findings.look("permissions", _permissions, seen)
    findings.look("round trip", _round_trip, seen)
    findings.look("profiles", lambda path: _profiles(path, settings), folder)
    findings.look("agent process", _process, folder)
    return findings


class _Visit(NamedTuple):
    facts: AgentFacts
    identity: Identity
    urls: Sequence[str]
    timeout_s: float


class _Seen(NamedTuple):
    """Observations at the broker. refused: missing permissions."""

    refused: list[tuple[str, str]]
    round_trip_s: float


def _folder(path: Path) -> tuple[str, Path]:
    with os_errors(path, "read"):
        os.scandir(path).close()
    return str(path), path


def _mode(path: Path) -> tuple[str, int]:
    mode = path.stat().st_mode
    if mode & _OTHERS:
        raise Trouble(
            f"{path} is open to others (mode {mode & 0o777:o})",
            "its keys are for the agent's own user",
            f"chmod 700 {path}",
            state="warning",
        )
    return "for its owner only", mode


def _processes(_path: Path) -> tuple[str, bool]:
    check_host()
    return "/proc shows them", True


def _user(path: Path, wanted: str) -> tuple[str, UserAccount]:
    """Check the user of tasks, as for an agent of the user that runs this check."""
    account = find_account(wanted)
    name = account.name or f"uid {account.uid}"
    if account.is_other:
        closed = closed_way(path / "tasks") if (path / "tasks").exists() else None
        if closed is None:
            return f"{name}, who can read nothing of the agent", account
        raise Trouble(
            f"{name}, who may not pass {closed}",
            "tasks cannot name their own folder by its path; relative names work",
            f"chmod o+x {closed}",
            state="warning",
        )
    if account.uid:
        return f"{name}, as the agent is: whoever may submit to it can become this agent", account
    raise Trouble(
        "root, as the agent is",
        "whoever may submit to it owns this host, and can become this agent",
        "set tasks.user to a user of its own",
        state="warning",
    )


def _ends(path: Path, settings: AgentSettings) -> tuple[str, bool]:
    state = read_status(path)
    has_cells = find_parent() is not None if state is None else state.cells
    has_cells = has_cells and settings.tasks.cells
    if has_cells is None:
        return "not known: the agent that runs is of an earlier release", False
    if not has_cells:
        raise Trouble(
            "no control groups can be made for tasks",
            "a program that hides on purpose ends with the last task of the agent only",
            "let the agent make groups of cgroup v2 (systemd: Delegate=yes), and tasks.cells",
            state="warning",
        )
    if state is not None and state.uncelled:
        raise Trouble(
            f"{state.uncelled} tasks began without their control group: {state.uncelled_why}",
            "a program of theirs that hides on purpose ends with the last task of the agent only",
            "see task_without_cell in its log, and how many groups the host allows (cgroup.max.*)",
            state="warning",
        )
    if find_account(settings.tasks.user).is_other:
        return "each task begins in a control group, which it cannot leave", True
    return "each task begins in a control group; one of the agent's own user can leave it", True


def _facts(path: Path) -> tuple[str, AgentFacts]:
    facts = IdentitySlots(path).facts()
    if facts is None:
        raise Refused("state_missing", f"{path} holds no identity of an agent")
    return f"agent {facts.agent} of group {facts.group}, mesh {facts.mesh}", facts


def _disk(path: Path, least: float) -> tuple[str, float]:
    """Check free space, and that a write reaches the disk."""
    with os_errors(path, "write"), tempfile.TemporaryFile(dir=path) as file:
        file.write(_PAGE)
        file.flush()
        os.fsync(file.fileno())
    found = os.statvfs(path)
    free = found.f_bavail / found.f_blocks if found.f_blocks else 1.0
    said = (
        f"{free:.0%} free ({found.f_bavail * found.f_frsize / 1e9:.1f} GB), and it can be written"
    )
    if free < least:
        raise Trouble(
            said,
            f"below {least:.0%} the agent takes no tasks (disk_free)",
            "free some space, or move the state directory",
        )
    return said, free


def _journal(path: Path) -> tuple[str, int]:
    journal = path / "journal.db"
    if not journal.exists():
        return "none yet: the agent has not run here", 0
    try:
        check_journal_files(journal)
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            told = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except (sqlite3.Error, OSError, MeshError) as error:
        told = str(error)
    if told != "ok":
        raise Trouble(
            f"{journal}: {told}",
            "the file is damaged, or another user's",
            "look at its disk; with the file moved away, tasks that ran here end as lost",
        )
    return "whole", 1


def _identity(path: Path, facts: AgentFacts) -> tuple[str, Identity]:
    identity = IdentitySlots(path).identity()
    if identity.claims.name != facts.agent:
        raise Trouble(
            f"the token is one of {identity.claims.name}, and the folder is of {facts.agent}",
            "files of two agents were mixed",
            _SET_UP,
        )
    return "readable, and they belong together", identity


def _log_in(visit: _Visit) -> tuple[str, _Seen]:
    """Connect to the broker, beside a running agent and under another connection name."""
    facts, timeout_s = visit.facts, visit.timeout_s

    async def look() -> tuple[str, _Seen]:
        link = await Link.connect(
            list(visit.urls),
            lambda: way.link_identity(visit.identity),
            f"{facts.agent}-doctor",
            inbox_prefix(facts.agent),
            wait_s=timeout_s,
        )
        try:
            refused = await way.permitted(link, facts.agent, AGENT, facts.group, timeout_s)
            seen = _Seen(refused, await way.round_trip_s(link, timeout_s))
            return f"accepted by {link.connected_url}", seen
        finally:
            await link.close()

    return asyncio.run(look())


def _permissions(seen: _Seen) -> tuple[str, bool]:
    if seen.refused:
        raise Trouble(
            f"may not {', '.join(f'{what} {subject}' for what, subject in seen.refused)}",
            "the broker knows other permissions than this release, or the group has changed",
            "restart the master, which renews them at the broker; or " + _SET_UP,
        )
    return f"all of an agent: {len(AGENT.publish) + len(AGENT.subscribe)} subjects tried", True


def _round_trip(seen: _Seen) -> tuple[str, float]:
    said = f"{seen.round_trip_s * 1e3:.1f} ms to the broker and back"
    if seen.round_trip_s > SLOW_S:
        raise Trouble(
            said,
            "the network or the broker is slow: beats may come late",
            "see the load of the broker's host, and the way there",
            state="warning",
        )
    return said, seen.round_trip_s


def _profiles(path: Path, settings: AgentSettings) -> tuple[str, int]:
    """Check the files of all profiles as they are now."""
    from broker_agent.services.profile_desk import rows  # beside plug-ins, only looked at here

    found, strays = rows(path, settings)
    wrong = [each.problem for each in found if each.problem] + strays
    if wrong:
        raise Trouble(
            f"{len(wrong)} of {len(found) + len(strays)} cannot be used: {wrong[0]}",
            "connections of their names do not choose this agent, or an earlier version is in use",
            f"broker-agent profile check --state-dir {path}",
            state="warning",
        )
    return f"{len(found)} can be used" if found else "none: no connection goes through here", 0


def _process(path: Path) -> tuple[str, AgentState]:
    """Check that the agent runs here and is reconciled with its master."""
    try:
        lock_directory(path).release()
    except Refused as error:
        if error.code != "state_locked":
            raise
    else:
        raise Trouble(
            "no agent runs on this folder",
            "it was stopped, has ended, or was never started",
            f"broker-agent run --state-dir {path}",
            state="warning",
        )
    state = read_status(path)
    if state is None:
        raise Trouble(
            "it is just starting, or cannot write its status",
            "status.json is missing",
            "look again in a moment, and at its log",
            state="warning",
        )
    if state.reconciled and state.connected and not state.reason:
        return f"pid {state.pid}, {state.link}, agreed with master epoch {state.epoch}", state
    raise Trouble(
        f"pid {state.pid}, {state.link} since {state.since}",
        _why(state),
        "see its log; `mesh agent show NAME` has the master's side",
    )


def _why(state: AgentState) -> str:
    if state.refused_epoch:
        return f"it refuses the master: {state.reason}"
    if state.reason:
        return f"the master has refused it: {state.reason}"
    return "no master is heard" if state.connected else "the broker is not connected"
