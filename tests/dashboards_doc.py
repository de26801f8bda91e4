"""Writes `docs/dashboards.md`: every panel, what it asks, and what a watched mesh answered.

    python -m tests.dashboards_doc --write

Starts a mesh with its Prometheus and takes half a minute. A test compares all but the answers.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests import dashboards
from tests.watched import Results, watched_world

PAGE: Final = Path(__file__).parents[1] / "docs" / "dashboards.md"
_HEAD: Final = """# Dashboards

Seven dashboards for Grafana 10 and later, made from code (`grafana/boards/`, with Grafana's own
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


def page(results: Results | None = None) -> str:
    return "\n".join([_HEAD, *_boards(results)]) + "\n"


def _boards(results: Results | None) -> Iterator[str]:
    from grafana.boards import BOARDS

    quiet = {(board.uid, panel.title) for board in BOARDS for panel in board.panels if panel.quiet}
    for board in sorted(dashboards.boards(), key=lambda each: str(each["title"])):
        yield f"## {board['title']}\n"
        yield f"{board['description']} (`{board['uid']}`)\n"
        yield "| panel | shows | query | answer |"
        yield "| --- | --- | --- | --- |"
        for panel in dashboards.panels(board):
            mark = " (quiet)" if (board["uid"], panel["title"]) in quiet else ""
            for target in panel["targets"]:
                expr = " ".join(target["expr"].split()).replace("|", "\\|")
                told = _answer(results, board["uid"], panel["title"], target["expr"])
                yield f"| {panel['title']}{mark} | {panel['description']} | `{expr}` | {told} |"
        yield ""


def _answer(results: Results | None, uid: str, title: str, expr: str) -> str:
    filled = dashboards.filled(expr)
    for each, samples in (results or {}).items():
        if (each.where, each.expr) == (f"{uid} / {title}", filled):
            return _shown(samples)
    return ""


def _shown(samples: list[dict[str, Any]]) -> str:
    if not samples:
        return "nothing"
    first = float(samples[0]["value"][1])
    return f"{len(samples)}: {first:.4g}"


def without_answers(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(line.rpartition(" | ")[0] if line.startswith("| ") else line for line in lines)


async def _written() -> None:
    with tempfile.TemporaryDirectory(prefix="mesh-watched-") as folder:
        async with watched_world(Path(folder)) as world:
            results = await world.live_through_it()
    PAGE.write_text(page(results))


def main(arguments: list[str]) -> int:
    if arguments != ["--write"]:
        sys.stderr.write("say --write to run a mesh and rewrite docs/dashboards.md\n")
        return 2
    asyncio.run(_written())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
