"""A filter in SQL: finds the very rows that match `schemas.filters.holds`."""

from collections.abc import Sequence
from typing import Final

from broker_master.core.facets import Facets
from schemas.filters import Word, fold

_COLUMNS: Final = {"group": "grp"}
_TEXTS: Final = ("id", "state", "group", "agent", "client", "action", "program", "argv")


def facet_row(seq: int, facets: Facets) -> tuple[object, ...]:
    """A row of the table `facets`: its texts are case-folded, as patterns are."""
    texts = [fold(getattr(facets, name)) for name in _TEXTS]
    return (
        seq,
        *texts,
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
