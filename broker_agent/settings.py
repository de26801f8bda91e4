"""What can be set for an agent. The master's timers take over with the first handshake."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from broker_client.runtime.settings import Loaded, load_settings
from schemas.timers import Seconds, Timers, check_timers

SLOTS_PER_CORE: Final = 4


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of an agent's settings.

    slots: tasks at once, 0 for four per core. keep_folders: folders of released tasks that had
    output, the newest ones. drain_s: how long running tasks may take to end when the agent is asked
    to stop. remember_s: for how long the ids of released attempts are kept at least. spool_bytes:
    output that may wait for the broker before new tasks are refused. disk_free: the share of the
    state directory's disk that must be free for a task to be taken. urls: brokers to use instead of
    those of the enrolment. metrics_port: of `/metrics` on the loopback address, 0 for none.
    """

    slots: Annotated[int, Meta(ge=0, le=100_000)] = 0
    keep_folders: Annotated[int, Meta(ge=0, le=100_000)] = 100
    drain_s: Seconds = 1800.0
    remember_s: Seconds = 86_400.0
    spool_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 1024 * 1024 * 1024
    disk_free: Annotated[float, Meta(ge=0, le=0.9)] = 0.05
    log_level: str = "info"
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    urls: tuple[str, ...] = ()
    timers: Timers = msgspec.field(default_factory=Timers)

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
        check=lambda settings: check_timers(settings.timers),
    )
