"""Dashboards, rules, alerts and runbooks as files, with the addresses of one installation in them.

The wheel has them below `monitoring_files`; a source tree has them in `grafana`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from broker_client.runtime.files import os_errors, read_text, write_public
from broker_master.settings import ConsoleSettings
from schemas.faults import Refused

_PACKAGE: Final = Path(__file__).parent
# In the tree, and so in the generated dashboards.
LOCAL_CONSOLE: Final = "http://127.0.0.1:8080"
LINKS: Final = "prometheus/links.json"
_FOLDERS: Final = ("dashboards", "prometheus", "provisioning")
_ALERT: Final = re.compile(r"- alert: (\w+)$")
_ANNOTATIONS: Final = re.compile(r"( *)annotations:$")


def write_monitoring(out: Path, console: ConsoleSettings) -> list[Path]:
    """Write all files below `out`, replacing existing ones; returns their paths, sorted.

    Links are absolute or left out: to runbooks and dashboards only where the settings have their
    addresses. Raises Refused (`state_unreadable`, `disk_full`) as writing does.
    """
    made = []
    for name, text in sorted(monitoring_files(console).items()):
        target = out / name
        with os_errors(target.parent, "make"):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_public(target, text.encode())
        made.append(target)
    return made


def monitoring_files(console: ConsoleSettings) -> dict[str, str]:
    """Each file's text by its path, for these addresses."""
    source = files_folder()
    links = json.loads(read_text(source / LINKS))
    found = {}
    for path in _files_below(source):
        name = path.relative_to(source).as_posix()
        text = read_text(path)
        if name == "prometheus/alerts.yaml":
            text = "".join(linked(text, links, console))
        elif name.startswith("dashboards/") and console.public_url:
            text = text.replace(LOCAL_CONSOLE, console.public_url)
        if name != LINKS:
            found[name] = text
    return found


def files_folder() -> Path:
    """The folder of the files; raises Refused (`state_missing`) if this install has none."""
    for folder in (_PACKAGE / "monitoring_files", _PACKAGE.parent / "grafana"):
        if (folder / LINKS).is_file():
            return folder
    raise Refused("state_missing", f"this install has no dashboards below {_PACKAGE}")


def _files_below(source: Path) -> Iterator[Path]:
    yield source / "runbooks.md"
    for folder in _FOLDERS:
        for path in sorted((source / folder).rglob("*")):
            if path.suffix in (".json", ".yaml", ".yml") and path.parent.name != "tests":
                yield path


def linked(text: str, links: Mapping[str, str], console: ConsoleSettings) -> Iterator[str]:
    """The lines of the alerts, with links below each one's annotations."""
    alert = ""
    for line in text.splitlines(keepends=True):
        yield line
        if found := _ALERT.search(line.rstrip()):
            alert = found[1]
        elif found := _ANNOTATIONS.match(line.rstrip()):
            # JSON's strings are YAML's.
            for name, link in addresses(alert, links[alert], console).items():
                yield f"{found[1]}  {name}: {json.dumps(link)}\n"


def addresses(alert: str, dashboard: str, console: ConsoleSettings) -> dict[str, str]:
    """The links of an alert, of those whose base is set. dashboard: its path in Grafana."""
    bases = {
        "runbook_url": (console.runbooks_url, f"#{alert.lower()}"),
        "dashboard_url": (console.grafana_url, dashboard),
        "console_url": (console.public_url, "/"),
    }
    return {name: f"{base}{rest}" for name, (base, rest) in bases.items() if base}
