"""Settings of an agent. The master's timers replace its own at the first handshake."""

import os
import re
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from broker_client.runtime.settings import Loaded, load_settings
from schemas.addresses import url_fault
from schemas.faults import Refused
from schemas.spans import DAY_S
from schemas.timers import Seconds, Timers, check_timers

SLOTS_PER_CORE: Final = 4


_LIMIT: Final = re.compile(r"([a-z]+)=(\d+|unlimited)(?::(\d+|unlimited))?")


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Start conditions of tasks, independent of the agent's own.

    user: name or number of the user of tasks; an agent that is not root has its own user only;
    empty for root: `mesh-task` if the host has it, else `nobody`. umask: in octal.
    limits: `NAME=SOFT` or `NAME=SOFT:HARD`, with the names of the system (`nofile`, `core`).
    cells: whether tasks start in a control group, if the host allows it; this needs a launcher.
    pass_env: variables of the agent that tasks get as well. env: `NAME=VALUE` for all tasks.
    """

    user: str = ""
    umask: Annotated[str, Meta(pattern="^0?[0-7]{1,3}$")] = "022"
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    limits: tuple[str, ...] = ()
    cells: bool = True
    pass_env: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


class VaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Access of connections to a Vault server.

    address: `https://HOST:PORT`. ca: file of its authorities; empty: the host's. token_file: of a
    token that is renewed by others; without it role_id and secret_id_file are exchanged for one.
    """

    address: str = ""
    namespace: str = ""
    ca: str = ""
    token_file: str = ""
    role_id: str = ""
    secret_id_file: str = ""


class ConnectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of connections. plugins: names of connectors that other packages bring."""

    plugins: tuple[str, ...] = ()
    vault: VaultSettings = msgspec.field(default_factory=VaultSettings)


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of an agent's settings.

    slots: concurrency limit of tasks; 0: four per core. keep_folders: number of folders of released
    tasks with output that are kept, newest first. drain_s: longest wait for running tasks when the
    agent stops. remember_s: shortest time that released attempts are remembered. spool_bytes:
    output that may wait for the broker before new tasks are refused. disk_free: free share of the
    state directory's disk, 0 to 0.9, below which tasks are refused. urls: addresses of brokers
    that replace the enrolment's. metrics_port: of `/metrics` on the loopback address; 0: none.
    profiles_dir: folder with profiles of connections, beside `profiles.d` in the state directory;
    empty: none. profiles_s: longest time until a change of a profile is seen.
    """

    slots: Annotated[int, Meta(ge=0, le=100_000)] = 0
    keep_folders: Annotated[int, Meta(ge=0, le=100_000)] = 100
    drain_s: Seconds = 1800.0
    remember_s: Seconds = DAY_S
    spool_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 1024 * 1024 * 1024
    disk_free: Annotated[float, Meta(ge=0, le=0.9)] = 0.05
    log_level: str = "info"
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    urls: tuple[str, ...] = ()
    profiles_dir: str = "/etc/mesh/profiles.d"
    profiles_s: Seconds = 5.0
    timers: Timers = msgspec.field(default_factory=Timers)
    tasks: TaskSettings = msgspec.field(default_factory=TaskSettings)
    connectors: ConnectorSettings = msgspec.field(default_factory=ConnectorSettings)

    @property
    def task_slots(self) -> int:
        return self.slots or SLOTS_PER_CORE * (os.cpu_count() or 1)


def load_agent_settings(
    environ: Mapping[str, str], flags: Mapping[str, Any], file: Path | None
) -> Loaded[AgentSettings]:
    return load_settings(
        AgentSettings,
        environ=environ,
        flags=flags,
        file=file,
        check=_check,
    )


def _check(settings: AgentSettings) -> None:
    check_timers(settings.timers)
    for url in settings.urls:
        if why := url_fault(url):
            raise Refused("settings_invalid", f"urls: {url[:80]!a}: {why}")
    for text in settings.tasks.limits:
        parse_limit(text)
    for text in settings.tasks.env:
        name, equals, _ = text.partition("=")
        if not name or not equals or "\0" in text:
            raise Refused("settings_invalid", f"tasks.env: {text[:64]!a} is not NAME=VALUE")


def parse_limit(text: str) -> tuple[int, int, int]:
    """Return the resource's number, soft and hard limit. Raises Refused (`settings_invalid`)."""
    found = _LIMIT.fullmatch(text)
    kind = getattr(resource, f"RLIMIT_{found[1].upper()}", None) if found else None
    if found is None or kind is None:
        raise Refused(
            "settings_invalid", f"tasks.limits: {text[:64]!a} is not NAME=SOFT or NAME=SOFT:HARD"
        )
    soft, hard = (
        resource.RLIM_INFINITY if each == "unlimited" else int(each)
        for each in (found[2], found[3] or found[2])
    )
    if hard != resource.RLIM_INFINITY and not 0 <= soft <= hard:
        raise Refused("settings_invalid", f"tasks.limits: {text[:64]!a}: soft is above hard")
    return kind, soft, hard
