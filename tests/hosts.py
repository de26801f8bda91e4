"""Hosts of a page of the documentation: each a folder, an address and a release of its own.

`HOST$ COMMAND` of a console block is done on that host. Units of the service manager, copies to
another host and installs are done by the test; all else is a command line in a shell.
"""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from broker_master.broker_child import choose_port
from tests.children import Child
from tests.harness import clean_environment, program
from tests.waiting import eventually

STEP_S: Final = 60.0
STOP_S: Final = 60.0
_PROMPT: Final = re.compile(r"([a-z]+)\$ (.*)")
# On loopback addresses of their own, so that all can have the same port.
ADDRESSES: Final = {"old": "127.0.0.1", "new": "127.0.0.2"}


class Host:
    """env: of everything that runs there; a release of its own is a part of it."""

    def __init__(self, name: str, folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.folder = folder / name
        (self.folder / "home").mkdir(parents=True)
        self.env = {**env, "HOME": str(self.folder / "home")}
        if name in ADDRESSES:
            self.env["MESH_NATS_HOST"] = ADDRESSES[name]
        self.units = {
            "mesh-master": self._unit("broker-master", "serve", "mesh-master"),
            "mesh-agent": self._unit("broker-agent", "run", "mesh-agent"),
        }

    def _unit(self, name: str, verb: str, state: str) -> Child:
        argv = program(name, verb, "--state-dir", str(self.folder / state))
        return Child(f"{self.name}-{name}", argv, self.folder, env=self.env, ready="ready ")

    def placed(self, text: str) -> str:
        """A command of the page with the paths and addresses that stand for its own here."""
        for name, address in ADDRESSES.items():
            text = text.replace(f"{name}.example.net", address)
        text = text.replace("/var/lib", str(self.folder)).replace("/var/tmp", str(self.folder))
        return text.replace("/opt/mesh/bin/", "")


class Hosts:
    """Any number of them below one folder; `current` is the environment of the code of now."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._port = choose_port("127.0.0.1")
        self._env = {
            **clean_environment(),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "NO_COLOR": "1",
            "TZ": "UTC",
            "MESH_NATS_PORT": str(self._port),
            "MESH_HTTP": "127.0.0.1:0",
            **env,
        }
        self._hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = Host(name, self._folder, self._env)
        return self._hosts[name]

    async def do(self, name: str, command: str) -> tuple[int, str]:
        """Its exit code, and what it said."""
        host = self[name]
        words = command.split()
        if words[0] == "systemctl":
            return await _manage(host, words[1], words[2])
        if words[0] == "scp":
            _copy(host.placed(words[1]), words[2], self)
            return 0, ""
        if "pip install" in command:
            for variable in ("PYTHONPATH", "PYTHONSAFEPATH"):
                for env in (host.env, *(unit.env for unit in host.units.values())):
                    env.pop(variable, None)
            return 0, ""
        return await asyncio.to_thread(_shell, host, host.placed(command))

    async def aclose(self) -> None:
        for host in self._hosts.values():
            for unit in reversed(host.units.values()):
                unit.kill()
                unit.end_orphans()
        await eventually(
            lambda: (
                not any(unit.is_running for h in self._hosts.values() for unit in h.units.values())
            ),
            STOP_S,
        )


def steps_of(lines: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Host, command and the output shown below it, for each prompt of a console block."""
    found: list[tuple[str, str, list[str]]] = []
    for line in lines:
        if prompt := _PROMPT.fullmatch(line):
            found.append((prompt[1], prompt[2], []))
        else:
            found[-1][2].append(line)
    return iter(found)


async def _manage(host: Host, verb: str, unit: str) -> tuple[int, str]:
    child = host.units[unit]
    if verb in ("stop", "restart"):
        await child.stop(STOP_S)
    if verb in ("start", "restart"):
        await child.start()
    return 0, ""


def _copy(source: str, target: str, hosts: Hosts) -> None:
    name, _, path = target.partition(":")
    shutil.copy(source, hosts[name.partition(".")[0]].placed(path))


def _shell(host: Host, command: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=host.folder,
        env=host.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=STEP_S,
        check=False,
    )
    return done.returncode, done.stdout
