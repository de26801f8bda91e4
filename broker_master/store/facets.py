"""A filter in SQL: finds the very rows that match `schemas.filters.holds`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from broker_master.core.facets import Facets
from schemas.filters import Word, fold

_COLUMNS: Final = {"group": "grp"}
# Names come again and again: most texts of a row are folded once for thousands of rows.
_fold_known: Final = lru_cache(maxsize=4096)(fold)


def facet_row(seq: int, facets: Facets) -> tuple[object, ...]:
    """A row of the table `facets`: its texts are case-folded, as patterns are."""
    return (
        seq,
        fold(facets.id),
        _fold_known(facets.state),
        _fold_known(facets.group),
        _fold_known(facets.agent),
        _fold_known(facets.client),
        _fold_known(facets.action),
        _fold_known(facets.connection),
        _fold_known(facets.program),
        fold(facets.argv),
        facets.exit,
        facets.attempts,
        facets.took,
        facets.submitted,
        facets.ended,
    )


def conditions(words: Sequence[Word]) -> tuple[list[str], list[object]]:
    """The SQL conditions on a row of `facets`, and the values of their parameters."""
    clauses, values = list[str](), list[object]()
    for word in words:
        clause, more = _condition(word)
        clauses.append(f"NOT {clause}" if word.is_not else clause)
        values += more
    return clauses, values


def _condition(word: Word) -> tuple[str, list[object]]:
    """Never NULL: a missing value matches only a negation."""
    column = f"facets.{_COLUMNS.get(word.field, word.field)}"
    match word.kind:
        case "pairs":
            any_of, values = _globs("labels.value", word.patterns)
            inner = f" AND {any_of}" if word.patterns else ""
            clause = (
                "EXISTS (SELECT 1 FROM labels"  # noqa: S608 - made of names and parameter marks alone
                f" WHERE labels.seq = facets.seq AND labels.name = ?{inner})"
            )
            return clause, [word.key, *values]
        case "since":
            return f"coalesce({column} >= ?, 0)", [word.number]
        case "until":
            return f"coalesce({column} <= ?, 0)", [word.number]
        case _ if word.sign:
            return f"coalesce({column} {word.sign} ?, 0)", [word.number]
        case "text":
            return _globs(column, word.patterns)
        case _:
            any_of, values = _globs(f"printf('%g', {column})", word.patterns)
            return f"({column} IS NOT NULL AND {any_of})", values


def _globs(column: str, patterns: Sequence[str]) -> tuple[str, list[object]]:
    clause = " OR ".join([f"{column} GLOB ?"] * len(patterns))
    return f"({clause})", [_glob(pattern) for pattern in patterns]


def _glob(pattern: str) -> str:
    """In GLOB a bracket opens a set of characters: escape it."""
    return pattern.replace("[", "[[]")
