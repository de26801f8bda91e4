"""compose.yaml and its Containerfile read as data, and its services run as processes of this host.

What containers would add (images, mounts, names of hosts, ports) is replaced by what stands for it
here: folders, 127.0.0.1 and free ports. Command lines, settings and files are those of the file.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import yaml  # type: ignore[import-untyped]  # no types are published beside it that we lock

from broker_master.broker_child import choose_port
from tests.children import Child

ROOT: Final = Path(__file__).parent.parent
COMPOSE: Final = ROOT / "compose.yaml"
CONTAINERFILE: Final = ROOT / "docs" / "deploy" / "Containerfile"
HEALTHY_S: Final = 60.0
ONCE_S: Final = 60.0
STEP_S: Final = 0.1
ASK_S: Final = 3.0

Service = dict[str, Any]


def services() -> dict[str, Service]:
    loaded: dict[str, Service] = document()["services"]
    return loaded


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def instructions() -> dict[str, list[tuple[str, str]]]:
    """By stage, each instruction of the Containerfile with what follows it; as `base` says, too."""
    text = re.sub(r"\\\n\s*", " ", CONTAINERFILE.read_text())
    stages: dict[str, list[tuple[str, str]]] = {}
    stage: list[tuple[str, str]] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            stage = stages[name] = [*stages.get(source, [])]
        stage.append((word, rest.strip()))
    return stages


def last(target: str, word: str) -> str:
    """Text of the last such instruction of a stage."""
    return [rest for name, rest in instructions()[target] if name == word][-1]


def entrypoint(service: Service) -> list[str]:
    """The program of a service: its own, or that of the image which is built for it."""
    if "entrypoint" in service:
        return [*service["entrypoint"]]
    if "build" not in service:
        # Images of others: their documented entrypoints.
        names = {"prom/prometheus": "prometheus", "prom/alertmanager": "prometheus-alertmanager"}
        return [names[service["image"].partition(":")[0]]]
    parsed: list[str] = json.loads(last(service["build"]["target"], "ENTRYPOINT"))
    return parsed


class Host:
    """This machine in the place of an engine. `up` brings services up in the order they need."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.children: dict[str, Child] = {}
        self.ports: dict[str, int] = {}
        self._done: set[str] = set()
        self._services = services()

    def port(self, number: str) -> int:
        """Replacement of a container's port; each number is used by one service only."""
        if number not in self.ports:
            self.ports[number] = choose_port("127.0.0.1")
        return self.ports[number]

    def argv(self, name: str, *arguments: str) -> list[str]:
        """The whole command line of a service; with `arguments`, as `compose run` would have it."""
        service = self._services[name]
        words = [*entrypoint(service), *(arguments or service.get("command", []))]
        program, *rest = [self.here(name, str(word)) for word in words]
        return [self._found(program), *rest]

    def here(self, name: str, text: str) -> str:
        """A word of a container's in terms of this host."""
        volumes = [str(volume).split(":") for volume in self._services[name].get("volumes", [])]
        places = {target: str(self._place(source)) for source, target, *_ in volumes}
        longest = "|".join(sorted(map(re.escape, places), key=len, reverse=True))
        text = re.sub(rf"(?<![\w/])({longest})(?![\w.-])", lambda found: places[found[1]], text)
        hosts = "|".join([*map(re.escape, self._services), "127.0.0.1", "0.0.0.0"])
        return re.sub(
            rf"(?<![\w.-])({hosts}):(\d{{4}})\b",
            lambda found: f"127.0.0.1:{self.port(found[2])}",
            text,
        )

    def _place(self, source: str) -> Path:
        """Where a volume is; a bind mount is a copy, so that addresses in it can be ours."""
        place = self.directory / source.removeprefix("./").replace("/", "-")
        if not source.startswith("./"):
            place.mkdir(mode=0o700, exist_ok=True)
        elif not place.exists():
            found = ROOT / source
            (shutil.copytree if found.is_dir() else shutil.copy)(found, place)
        return place

    def _found(self, program: str) -> str:
        beside = Path(sys.executable).with_name(program)
        return str(beside) if beside.exists() else shutil.which(program) or program

    def env(self, name: str) -> dict[str, str]:
        """Only what the service is given: no setting of whoever runs the test gets in."""
        given = self._services[name].get("environment", {})
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.directory), **given}

    async def up(self, name: str) -> None:
        """Bring up what `name` depends on, as it wants it, then itself."""
        if name in self._done:
            return
        for other, how in self._services[name].get("depends_on", {}).items():
            await self.up(other)
            if how["condition"] == "service_healthy":
                await self.wait_healthy(other)
        self._done.add(name)
        if self._services[name].get("restart") == "no":
            await self.once(name)
        else:
            self.start(name)

    def start(self, name: str, *more: str) -> None:
        argv = [*self.argv(name), *more]
        self.children[name] = Child(name, argv, self.directory / "logs", env=self.env(name))
        self.children[name].launch()

    async def once(self, name: str, *arguments: str) -> str:
        """Run a service to its end; its output. RuntimeError if it fails."""
        argv = self.argv(name, *arguments)
        child = Child(f"once-{name}", argv, self.directory / "logs", env=self.env(name))
        child.stdout_path.unlink(missing_ok=True)
        child.launch()
        code = await child.wait(ONCE_S)
        if code:
            raise RuntimeError(f"{name} ended with {code}:\n{child.last_words()}")
        return child.stdout

    async def wait_healthy(self, name: str) -> None:
        test = self._services[name]["healthcheck"]["test"]
        assert test[0] == "CMD", "an image without a shell can be asked only so"
        argv = [self.here(name, word) for word in test[1:]]
        async with asyncio.timeout(HEALTHY_S):
            while not await self._is_well(name, argv):
                child = self.children[name]
                assert child.is_running, f"{name} ended:\n{child.last_words()}"
                await asyncio.sleep(STEP_S)

    async def _is_well(self, name: str, argv: list[str]) -> bool:
        if argv[0] == "wget":  # in the images; here we ask ourselves
            return await asyncio.to_thread(_answers, argv[-1])
        process = await asyncio.create_subprocess_exec(
            self._found(argv[0]),
            *argv[1:],
            env=self.env(name),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait() == 0

    def rewrite(self, name: str, target: str) -> None:
        """Addresses in a mounted file, as they are here."""
        path = Path(self.here(name, target))
        path.write_text(self.here(name, path.read_text()))

    async def down(self) -> Mapping[str, int]:
        """End all in reverse order; their exit codes."""
        codes = {}
        for name in reversed(self.children):
            codes[name] = await self.children[name].stop()
        return codes

    def kill(self) -> None:
        for child in self.children.values():
            child.kill()
            child.end_orphans()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=ASK_S) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def run(argv: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, capture_output=True, text=True, timeout=ONCE_S, check=False)
