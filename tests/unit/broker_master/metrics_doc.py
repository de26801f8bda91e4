"""Makes the table of `docs/metrics.md` from the metrics themselves.

python -m tests.unit.broker_master.metrics_doc --write
"""

import sys
from pathlib import Path
from typing import Final

from broker_master.metrics.catalogue import FAMILIES, PER_AGENT

PAGE: Final = Path(__file__).parents[3] / "docs" / "metrics.md"
BEGIN: Final = "<!-- generated: metrics -->\n"
END: Final = "<!-- end -->\n"


def table() -> str:
    lines = ["", "| name | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in FAMILIES.values():
        labels = ", ".join(family.labels) or "–"
        star = " \\*" if family.name in PER_AGENT else ""
        lines.append(f"| `{family.name}`{star} | {family.kind} | {labels} | {family.meaning} |")
    return "\n".join([*lines, "", ""])


def rewritten(page: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def main(arguments: list[str]) -> int:
    if arguments != ["--write"]:
        sys.stderr.write("say --write to rewrite the table of docs/metrics.md\n")
        return 2
    PAGE.write_text(rewritten(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
