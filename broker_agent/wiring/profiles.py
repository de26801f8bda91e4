"""Connects the profiles of this host."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from broker_agent.core.lines import Place
from broker_agent.core.profiles import Checked
from broker_agent.services.profile_files import ProfileFiles, folders_of
from broker_agent.services.profiles import Profiles
from broker_agent.services.wire import Station
from broker_agent.settings import AgentSettings


def build_profiles(
    station: Station, state_dir: Path, settings: AgentSettings, others: set[int]
) -> Profiles:
    """Build the service. others: pids of children of this process that are no tasks."""

    def check_plugin(kind: str, given: Mapping[str, Any], places: Sequence[Place]) -> Checked:
        # Imported on demand: agents are small.
        from broker_agent.services import trial

        return trial.check_plugin(others, kind, given, places)

    files = ProfileFiles(folders_of(state_dir, settings), settings.connectors, check_plugin)
    return Profiles(station, files, look_s=lambda: settings.profiles_s)
