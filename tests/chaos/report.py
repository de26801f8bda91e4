"""The table of a whole run: fault by seed by promise. `python -m tests.chaos.report [FOLDER]`

Each run leaves one file in the folder that MESH_CHAOS_REPORT names, `build/chaos` if none.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from tests.chaos.checker import RULES, Judgement

VARIABLE: Final = "MESH_CHAOS_REPORT"
DEFAULT: Final = "build/chaos"
_NOTES: Final = 4
_NOTE_LEN: Final = 200


def folder() -> Path:
    return Path(os.environ.get(VARIABLE) or DEFAULT)


def write_verdict(fault: str, seed: int, judgement: Judgement, history: Path) -> None:
    """Beside the verdict of a run that broke a promise, its history is kept."""
    into = folder()
    into.mkdir(parents=True, exist_ok=True)
    verdict = {
        "fault": fault,
        "seed": seed,
        "rules": {name: judgement.verdict(name) for name in RULES},
        "checked": judgement.checked,
        "violations": judgement.violations,
    }
    (into / f"{fault}.{seed}.json").write_text(json.dumps(verdict, indent=1))
    if judgement.violations:
        shutil.copy(history, into / f"{fault}.{seed}.history.jsonl")


def write_skip(fault: str, seed: int, reason: str) -> None:
    into = folder()
    into.mkdir(parents=True, exist_ok=True)
    verdict = {"fault": fault, "seed": seed, "skipped": reason}
    (into / f"{fault}.{seed}.json").write_text(json.dumps(verdict, indent=1))


def render(verdicts: list[dict[str, Any]]) -> str:
    """Markdown: one row per run, then what was violated and what was not run."""
    rules = list(RULES)
    lines = [
        f"| fault | seed | {' | '.join(rules)} |",
        f"|---|---|{'---|' * len(rules)}",
    ]
    notes = []
    for verdict in verdicts:
        name = f"{verdict['fault']} seed {verdict['seed']}"
        if "skipped" in verdict:
            notes.append(f"- {name}: skipped: {verdict['skipped']}")
            continue
        cells = [verdict["rules"].get(rule, "-") for rule in rules]
        lines.append(f"| {verdict['fault']} | {verdict['seed']} | {' | '.join(cells)} |")
        notes += [f"- {name}: {note}" for note in _notes(verdict["violations"])]
    runs = sum("rules" in verdict for verdict in verdicts)
    broken = sum(bool(verdict.get("violations")) for verdict in verdicts)
    looks = sum(sum(verdict.get("checked", {}).values()) for verdict in verdicts)
    lines += ["", f"{runs} runs, {broken} with violations, {looks} things judged.", ""]
    return "\n".join([*lines, *notes, ""])


def _notes(violations: list[list[str]]) -> list[str]:
    """A few of each rule, without the line breaks and the length of a traceback."""
    notes = []
    for rule in RULES:
        texts = [" ".join(text.split()) for name, text in violations if name == rule]
        notes += [f"{rule}: {_short(text)}" for text in texts[:_NOTES]]
        if len(texts) > _NOTES:
            notes.append(f"{rule}: and {len(texts) - _NOTES} more")
    return notes


def _short(text: str) -> str:
    return text if len(text) <= _NOTE_LEN else f"{text[: _NOTE_LEN // 3]} … {text[-_NOTE_LEN:]}"


def main() -> None:
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else folder()
    found = [json.loads(path.read_text()) for path in into.glob("*.[0-9]*.json")]
    found.sort(key=lambda verdict: (verdict["fault"], verdict["seed"]))
    text = render(found)
    (into / "report.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
