"""A real Prometheus, a real Alertmanager and the receiver of its alerts, for tests.

    async with Watchers(tmp_path, targets=["127.0.0.1:8080"]) as watchers:
        await watchers.wait_alert("MeshAgentNoResponse", "firing", within_s=60)

All durations of the alerts are shortened by `shortened`, and nothing else of them is changed.
Needs no pytest. Ports are free ones; everything is below one directory and ended with the block.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from broker_master import monitoring
from broker_master.settings import ConsoleSettings
from grafana import rules
from grafana.plain_yaml import render
from tests.children import Child
from tests.requirements_policy import require
from tests.servers import choose_ports

INSTALL: Final = "apt install prometheus prometheus-alertmanager"
READY_S: Final = 60.0
STEP_S: Final = 0.1
SCRAPE: Final = "500ms"
# What is left of the rules' durations: long enough for a few scrapes, short enough to wait for.
FOR_MAX_S: Final = 2.0
RANGE_MIN_S: Final = 3.0

# Where the alerts of the tests lead.
LINKED: Final = ConsoleSettings(
    public_url="https://mesh.example",
    grafana_url="https://grafana.example",
    runbooks_url="https://wiki.example/runbooks.md",
)


def shortened(seconds: float) -> float:
    return min(seconds, FOR_MAX_S) if seconds < 120 or seconds >= 3600 else RANGE_MIN_S


@dataclass(frozen=True)
class Notice:
    """One alert as the receiver was told of it. at: when, on the clock of `time.monotonic`."""

    name: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    at: float


@dataclass
class Receiver:
    """A webhook that keeps what it is told."""

    notices: list[Notice] = field(default_factory=list)
    url: str = ""
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/alerts"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split()[0])
                    self._take(json.loads(await reader.readexactly(length)))
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
        finally:
            writer.close()

    def _take(self, body: dict[str, Any]) -> None:
        for alert in body["alerts"]:
            labels = alert["labels"]
            self.notices.append(
                Notice(
                    labels["alertname"],
                    alert["status"],
                    labels,
                    alert["annotations"],
                    time.monotonic(),
                )
            )

    def find(self, name: str, status: str, after: float = 0.0, **labels: str) -> Notice | None:
        for notice in self.notices:
            said = (notice.name, notice.status) == (name, status) and notice.at >= after
            if said and labels.items() <= notice.labels.items():
                return notice
        return None


class Watchers:
    """Prometheus and Alertmanager with the shipped rules and the shipped inhibitions."""

    def __init__(self, directory: Path, *, targets: Sequence[str]) -> None:
        self.directory = directory
        self.receiver = Receiver()
        self._targets = list(targets)
        ports = choose_ports(2)
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.alertmanager_url = f"http://127.0.0.1:{ports[1]}"
        self._prometheus = Child(
            "prometheus",
            [
                require("prometheus", INSTALL),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{ports[0]}",
                "--web.enable-lifecycle",
            ],
            directory,
        )
        self._alertmanager = Child(
            "alertmanager",
            [
                require("prometheus-alertmanager", INSTALL),
                f"--config.file={directory / 'alertmanager.yml'}",
                f"--storage.path={directory / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{ports[1]}",
                "--cluster.listen-address=",
            ],
            directory,
        )

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.receiver.start()
        try:
            self._write_files()
            self._prometheus.launch()
            self._alertmanager.launch()
            await self._wait_ready(f"{self.url}/-/ready", self._prometheus)
            await self._wait_ready(f"{self.alertmanager_url}/-/ready", self._alertmanager)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._prometheus.kill()
        self._alertmanager.kill()
        await self.receiver.stop()

    def retarget(self, targets: Sequence[str]) -> None:
        """Scrape these from now on; read again within a second."""
        self._targets = list(targets)
        self._write_targets()

    def _write_files(self) -> None:
        scraped = {
            "job_name": "mesh-master",
            "file_sd_configs": [
                {"files": [str(self.directory / "targets.json")], "refresh_interval": "1s"}
            ],
        }
        config: dict[str, object] = {
            "global": {
                "scrape_interval": SCRAPE,
                "scrape_timeout": SCRAPE,
                "evaluation_interval": SCRAPE,
            },
            "rule_files": ["rules.yaml", "alerts.yaml"],
            "alerting": {
                "alertmanagers": [
                    {
                        "static_configs": [
                            {"targets": [self.alertmanager_url.removeprefix("http://")]}
                        ]
                    }
                ]
            },
            "scrape_configs": [scraped],
        }
        self._write_targets()
        folder = self.directory
        (folder / "prometheus.yml").write_text(render(config))
        (folder / "rules.yaml").write_text(render(rules.recording_rules()))
        alerts = render(rules.alerting_rules(shortened))
        links = json.loads((monitoring.files_folder() / monitoring.LINKS).read_text())
        (folder / "alerts.yaml").write_text("".join(monitoring.linked(alerts, links, LINKED)))
        (folder / "alertmanager.yml").write_text(self._alertmanager_config())

    def _write_targets(self) -> None:
        path = self.directory / "targets.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps([{"targets": self._targets}]))
        fresh.replace(path)

    def _alertmanager_config(self) -> str:
        """The shipped example, its receiver and its waits replaced."""
        text = (Path(rules.__file__).parent / "prometheus" / "alertmanager.yml").read_text()
        for old, new in (
            ("http://127.0.0.1:9095/alerts", self.receiver.url),
            ("group_wait: 15s", "group_wait: 0s"),
            ("group_interval: 1m", "group_interval: 1s"),
        ):
            assert old in text
            text = text.replace(old, new)
        return text

    async def _wait_ready(self, url: str, child: Child) -> None:
        give_up_at = time.monotonic() + READY_S
        while True:
            try:
                await asyncio.to_thread(lambda: urlopen(url, timeout=60).close())
            except (URLError, ConnectionError):
                if not child.is_running or time.monotonic() > give_up_at:
                    raise RuntimeError(f"{child.name}: {child.last_words()}") from None
                await asyncio.sleep(STEP_S)
            else:
                return

    # asking

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query; a scalar becomes one sample without labels."""
        data = (await self._get(f"{self.url}/api/v1/query?{urlencode({'query': expr})}"))["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    async def label_values(self, label: str, match: str) -> list[str]:
        where = urlencode({"match[]": match})
        found = (await self._get(f"{self.url}/api/v1/label/{label}/values?{where}"))["data"]
        return [str(value) for value in found]

    async def suppressed(self) -> set[tuple[str, str]]:
        """Name and agent, or group, of the alerts that are inhibited now."""
        alerts = await self._get(f"{self.alertmanager_url}/api/v2/alerts?inhibited=true")
        held = [each["labels"] for each in alerts if each["status"]["state"] == "suppressed"]
        return {
            (labels["alertname"], labels.get("agent", labels.get("group", ""))) for labels in held
        }

    async def wait_alert(
        self, name: str, status: str, *, within_s: float = 15.0, after: float = 0.0, **labels: str
    ) -> Notice:
        async def look() -> Notice | None:
            return self.receiver.find(name, status, after, **labels)

        notice: Notice = await wait_for(look, within_s, f"{name} {status} {labels}")
        return notice

    async def _get(self, url: str) -> Any:  # noqa: ANN401  JSON
        def get() -> bytes:
            with urlopen(url, timeout=60) as answer:
                body: bytes = answer.read()
            return body

        return json.loads(await asyncio.to_thread(get))


async def wait_for(look: Callable[[], Awaitable[Any]], within_s: float, what: str) -> Any:  # noqa: ANN401  whatever `look` finds
    """Return the first result of `look` that is not empty; AssertionError after `within_s`."""
    give_up_at = time.monotonic() + within_s
    while True:
        found = await look()
        if found:
            return found
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(STEP_S)
