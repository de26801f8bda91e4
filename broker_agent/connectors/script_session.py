"""Work of a worker for scripts: reads their secrets, and tries a profile."""

import os
from collections.abc import Callable

import msgspec

from broker_agent.connectors.api import Call, CallFailed, Out, Result, Secrets
from broker_agent.connectors.frames import SCRIPT_SECRETS
from broker_agent.connectors.script import ScriptProfile, find_script
from schemas.messages.actions.script import ScriptRunArgs


class ScriptSession:
    server_id = ""
    is_broken = False

    def __init__(self, profile: ScriptProfile, secrets: Secrets) -> None:
        self._profile = profile
        self._secrets = secrets

    def call(self, action: str, args: ScriptRunArgs, out: Out, call: Call) -> Result:
        """Write the secrets of a script: their length in four bytes, then a map in msgpack."""
        del call
        if action != SCRIPT_SECRETS:
            raise CallFailed("internal", f"{action} is no work of a worker", effect="none")
        script = find_script(self._profile, args.script)
        values = {each: self._secret(args.script, each) for each in script.secrets}
        data = msgspec.msgpack.encode(values)
        out.write(len(data).to_bytes(4, "big") + data)
        return {}

    def _secret(self, script: str, variable: str) -> str:
        return self._secrets[f"scripts.{script}.secrets.{variable}"]

    def test(self, step: Callable[[str], None]) -> str:
        for name, script in self._profile.scripts.items():
            program = str(script.argv[0])
            if not os.access(program, os.X_OK):
                raise CallFailed("script_unknown", f"{name}: cannot run {program}", effect="none")
            for variable in script.secrets:
                # Raises for a value that cannot be read.
                self._secret(name, variable)
        step("query")
        return f"{len(self._profile.scripts)} scripts"

    def cancel(self) -> None:
        """A test does not wait."""

    def close(self) -> None:
        """Nothing is open."""
