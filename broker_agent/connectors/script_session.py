"""Test of a profile of scripts: each program is there and may be run."""

import os
from collections.abc import Callable
from typing import Any, Never

from broker_agent.connectors.api import Call, CallFailed, Out, Secrets
from broker_agent.connectors.script import ScriptProfile


class ScriptSession:
    server_id = ""
    is_broken = False

    def __init__(self, profile: ScriptProfile, secrets: Secrets) -> None:
        self._profile = profile
        self._secrets = secrets

    def call(self, action: str, args: Any, out: Out, call: Call) -> Never:  # noqa: ANN401
        """The agent runs scripts as programs, never in a worker."""
        raise CallFailed("internal", f"{action} is no work of a worker", effect="none")

    def test(self, step: Callable[[str], None]) -> str:
        for name, script in self._profile.scripts.items():
            program = str(script.argv[0])
            if not os.access(program, os.X_OK):
                raise CallFailed("script_unknown", f"{name}: cannot run {program}", effect="none")
            for variable in script.secrets:
                # Raises for a value that cannot be read.
                self._secrets[f"scripts.{name}.secrets.{variable}"]
        step("query")
        return f"{len(self._profile.scripts)} scripts"

    def cancel(self) -> None:
        """A test does not wait."""

    def close(self) -> None:
        """Nothing is open."""
