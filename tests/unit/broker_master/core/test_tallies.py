"""Counters are incremented and read under the same names."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from broker_master.core.measures import AUTH_REASONS
from broker_master.core.tallies import LABELS, Tally

SOURCES = Path(__file__).parents[4] / "broker_master"


def words(node: ast.expr) -> set[str]:
    """The texts that an argument may be, as far as they stand there."""
    if isinstance(node, ast.IfExp):
        return words(node.body) | words(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def counted() -> Iterator[tuple[str, list[set[str]]]]:
    """The tally of each call of `count`, and its labels."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                function = node.func
                name = getattr(function, "attr", getattr(function, "id", ""))
                first, *labels = (words(each) for each in node.args)
                if name == "count" and len(first) == 1:
                    yield first.pop(), labels


def test_each_tally_is_counted_somewhere_and_no_other_is() -> None:
    assert {tally for tally, _ in counted()} == set(get_args(Tally))


def test_labels_that_are_counted_are_those_that_are_shown() -> None:
    """Where a label does not stand in the code, another test of its service sees it."""
    found: dict[str, set[str]] = defaultdict(set)
    for tally, labels in counted():
        if tally in LABELS and labels:
            found[tally] |= labels[0]
    assert all(found[tally] <= {*labels} for tally, labels in LABELS.items()), found
    assert found["shed"] == {*LABELS["shed"]}
    assert found["restored"] == {*LABELS["restored"]}


def test_reasons_of_refusals_are_tallies() -> None:
    assert {tally for tally, *_ in AUTH_REASONS} <= set(get_args(Tally))
