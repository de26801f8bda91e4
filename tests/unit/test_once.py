"""Rules that stand in one place each: a second copy is where the next change is forgotten."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "broker_client", "broker_agent", "broker_master")
# Shorter functions say the same by chance: a property that returns one field, say.
LEAST_NODES = 20


def modules() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def functions() -> Iterator[tuple[str, str, str]]:
    """Place, name, and what a function does whatever its name and its docstring are."""
    for place, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if sum(1 for line in body for _ in ast.walk(line)) >= LEAST_NODES:
                    does = "".join(ast.dump(part) for part in (node.args, *body))
                    yield f"{place}:{node.lineno}", node.name, does


def test_no_function_is_written_twice() -> None:
    places = defaultdict(list)
    for place, name, does in functions():
        places[does].append(f"{place} {name}")
    assert [found for found in places.values() if len(found) > 1] == []


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"\b86_?400(\.0)?\b", "schemas/spans.py"),
        (r"['\"]Nats-Service-Error", "schemas/answers.py"),
        (r"def counted\b", "schemas/counting.py"),
        (r"def rfc3339\b", "schemas/moments.py"),
        (r"def check_group\b", "broker_master/core/rights.py"),
    ],
)
def test_rule_stands_in_its_home_alone(pattern: str, home: str) -> None:
    assert {place for place, text in modules() if re.search(pattern, text)} == {home}
