"""Every generated page and file: written again, or compared with the committed one.

    python -m tools.docs             writes what differs, and names it
    python -m tools.docs --check     names what differs and writes nothing; 1 if anything does
    python -m tools.docs --record    also runs a mesh and records its answers: the session of the
                                     README, and the last column of docs/dashboards.md

A recording takes about a minute and needs a Prometheus; all else needs no program.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from grafana import build
from tools import cli, connections, dashboards, metrics, protocol, session
from tools.sections import rewritten

ROOT: Final = Path(__file__).resolve().parents[1]
SECTIONS: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "docs/cli.md": cli.SECTIONS,
    "docs/metrics.md": metrics.SECTIONS,
    "docs/protocol.md": protocol.SECTIONS,
    **connections.SECTIONS,
}
README: Final = "README.md"
DASHBOARDS: Final = "docs/dashboards.md"


def generated(root: Path = ROOT) -> dict[str, str]:
    """Return the text of each generated file below `root`, by path; keeps prose and records."""
    pages = {
        path: rewritten((root / path).read_text(), makers) for path, makers in SECTIONS.items()
    }
    pages[DASHBOARDS] = dashboards.rewritten((root / DASHBOARDS).read_text())
    return pages | {f"grafana/{path}": text for path, text in build.files().items()}


def stale(root: Path = ROOT) -> dict[str, str]:
    """Return the generated files that differ from the files in `root`."""
    return {path: text for path, text in generated(root).items() if _there(root / path) != text}


def _there(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


async def recorded(root: Path = ROOT) -> dict[str, str]:
    """Return the text of the pages with recorded answers, from a mesh that runs meanwhile."""
    readme = session.rewritten((root / README).read_text(), await session.record())
    answers = await dashboards.record()
    return {
        README: readme,
        DASHBOARDS: dashboards.rewritten((root / DASHBOARDS).read_text(), answers),
    }


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.docs")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--check", action="store_true", help="write nothing")
    chosen.add_argument("--record", action="store_true", help="run a mesh and record its answers")
    options = parser.parse_args(arguments)
    differing = stale(root)
    if options.record:
        differing |= asyncio.run(recorded(root))
    for path, text in differing.items():
        sys.stdout.write(f"{path}\n")
        if not options.check:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return int(options.check and bool(differing))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
