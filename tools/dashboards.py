"""The page docs/dashboards.md: every panel, its query, and the recorded answer of a mesh.

A generated page keeps the answers of the queries that the former page had.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from grafana.boards import BOARDS, dashboards
from tests.dashboards import filled, panels
from tests.watched import Results, watched_world

_HEAD: Final = """# Dashboards

Eight dashboards for Grafana 10 and later, made from code (`grafana/boards/`, with Grafana's own
SDK) by `python -m grafana.build`. Import the files of `grafana/dashboards/`, or mount them with the
provisioning beside them. They need Prometheus as a data source, the rules of
`grafana/prometheus/rules.yaml`, and a scrape job called `mesh-master`.

**No Grafana has drawn them in our tests**, because none can be installed there. What is tested:
they are built again and compared byte by byte; they fit the types that Grafana publishes
(`@grafana/schema`); every query below is run against a real Prometheus that scrapes a real master,
whose agents pass through all four statuses and a rotation, and whose commands succeed, fail, time
out, are cancelled and get lost, and every one of them has to give data.

*Quiet* panels are empty while all is well. The last column is what that mesh answered, for the eye:
how many series, and the value of the first one.
"""


def rewritten(old: str, results: Results | None = None) -> str:
    """Return the page with the answers of `results`, or else of the `old` page."""
    kept = dict(line.rpartition(" | ")[::2] for line in old.splitlines())
    return "\n".join([_HEAD, *_boards(kept, results)]) + "\n"


def _boards(kept: Mapping[str, str], results: Results | None) -> Iterator[str]:
    quiet = {(board.uid, panel.title) for board in BOARDS for panel in board.panels if panel.quiet}
    made = [json.loads(text) for text in dashboards().values()]
    for board in sorted(made, key=lambda each: str(each["title"])):
        yield f"## {board['title']}\n"
        yield f"{board['description']} (`{board['uid']}`)\n"
        yield "| panel | shows | query | answer |"
        yield "| --- | --- | --- | --- |"
        for panel in panels(board):
            mark = " (quiet)" if (board["uid"], panel["title"]) in quiet else ""
            for target in panel["targets"]:
                expr = " ".join(target["expr"].split()).replace("|", "\\|")
                row = f"| {panel['title']}{mark} | {panel['description']} | `{expr}`"
                if results is None:
                    yield f"{row} | {kept.get(row, ' |')}"
                else:
                    told = _answer(results, board["uid"], panel["title"], target["expr"])
                    yield f"{row} | {told} |"
        yield ""


def _answer(results: Results, uid: str, title: str, expr: str) -> str:
    wanted = (f"{uid} / {title}", filled(expr))
    for each, samples in results.items():
        if (each.where, each.expr) == wanted:
            return _shown(samples)
    return ""


def _shown(samples: list[dict[str, Any]]) -> str:
    if not samples:
        return "nothing"
    first = float(samples[0]["value"][1])
    return f"{len(samples)}: {first:.4g}"


async def record() -> Results:
    """Run a mesh with its Prometheus, and send it each query; takes half a minute."""
    with tempfile.TemporaryDirectory(prefix="mesh-watched-") as folder:
        async with watched_world(Path(folder)) as world:
            return await world.live_through_it()
