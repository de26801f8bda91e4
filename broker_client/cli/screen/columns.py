"""Columns of a list: one definition for the table, `--columns`, CSV and sorting."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from broker_client.cli.options import Common
from broker_client.cli.screen.report import Chosen, print_list
from broker_client.cli.screen.size import screen_width
from broker_client.cli.screen.tables import Column, Table, fit, short_time
from schemas.near import near_names

R = TypeVar("R")
Value = float | str
COLUMNS_HELP: Final = "Columns, with commas between, or all."
_SHOWN: Final = 64


class Trait(NamedTuple, Generic[R]):
    """A column of records. shown: text in a table at a unix time. value: for sorting and CSV.

    is_span: the value is a duration in seconds. None: unknown.
    """

    column: Column
    shown: Callable[[R, float], str]
    value: Callable[[R, float], Value | None]
    is_span: bool = False


def text(
    head: str,
    of: Callable[[R], str],
    *,
    rank: int = 0,
    least: int = 0,
    shown: Callable[[str], str] | None = None,
) -> Trait[R]:
    """Return a column of texts. shown: converts the value for a table."""
    column = Column(head, rank, least=least)
    return Trait(column, lambda r, _: shown(of(r)) if shown else of(r), lambda r, _: of(r))


def count(head: str, of: Callable[[R], int], *, rank: int = 0) -> Trait[R]:
    column = Column(head, rank, right=True)
    return Trait(column, lambda r, _: str(of(r)), lambda r, _: float(of(r)))


def moment(head: str, of: Callable[[R], str | None], *, rank: int = 0) -> Trait[R]:
    """Return a column of times in RFC 3339, which sort as text."""
    return Trait(Column(head, rank), lambda r, now: short_time(of(r), now), lambda r, _: of(r))


class Columns(Generic[R]):
    """All columns of one kind of records, by name.

    usual: names without `--columns`; wide: on a screen of at least `wide_cells`. other: synonyms.
    """

    def __init__(
        self,
        traits: Mapping[str, Trait[R]],
        *,
        usual: Sequence[str] = (),
        wide: Sequence[str] = (),
        wide_cells: int = 120,
        other: Mapping[str, str] | None = None,
    ) -> None:
        self.traits = traits
        self._usual = tuple(usual or traits)
        self._wide = tuple(wide) or self._usual
        self._wide_cells = wide_cells
        self._other = other or {}

    def named(self, text: str | None, width: int = 80) -> tuple[str, ...]:
        """Return the columns of `--columns`: names separated by commas, `all`, None: the default.

        width: cells of a line. Raises ValueError that lists the known names.
        """
        if text is None:
            return self._wide if width >= self._wide_cells else self._usual
        if text == "all":
            return tuple(self.traits)
        return tuple(dict.fromkeys(self._known(name, "use all, or") for name in text.split(",")))

    def check(self, value: str | None) -> None:
        """Validate a parameter with columns."""
        self.named(value)

    def check_sort(self, value: str | None) -> None:
        """Validate a parameter with a column to sort by; `-COLUMN` is descending."""
        if value is not None:
            self._sort_key(value)

    def in_order(self, records: Sequence[R], by: str, now: float) -> list[R]:
        """Sort by a column; records without a value come last, equal ones keep their order."""
        value, is_reversed = self._sort_key(by)
        known: list[tuple[Value, R]] = []
        unknown = []
        for record in records:
            found = value(record, now)
            if found is None or found == "":
                unknown.append(record)
            else:
                known.append((found, record))
        known.sort(key=lambda pair: pair[0], reverse=is_reversed)
        return [*(record for _, record in known), *unknown]

    def table(
        self, records: Sequence[R], text: str | None = None, now: float | None = None
    ) -> Table:
        """Return records as a table for this screen. text: value of `--columns`. now: unix time."""
        names, now = self.named(text, screen_width()), time.time() if now is None else now
        heads = [self.traits[name].column for name in names]
        return fit(heads, self.rows(records, names, now), screen_width())

    def rows(self, records: Sequence[R], names: Sequence[str], now: float) -> list[list[str]]:
        return [[self.traits[name].shown(each, now) for name in names] for each in records]

    def chosen(self, records: Sequence[R], text: str | None) -> Chosen:
        """Return the values of the columns, for CSV."""
        names, now = self.named(text), time.time()
        values = [[self.traits[name].value(each, now) for name in names] for each in records]
        return Chosen(names, values)

    def _sort_key(self, text: str) -> tuple[Callable[[R, float], Value | None], bool]:
        name = self._known(text.removeprefix("-"), "sort by")
        return self.traits[name].value, text.startswith("-")

    def _known(self, given: str, use: str) -> str:
        name = given.strip().lower()
        found = self._other.get(name, name)
        if found not in self.traits:
            near = near_names(name, [*self.traits, *self._other])
            hint = near or f": {use} {', '.join(self.traits)}"
            raise ValueError(f"no column {name[:_SHOWN]!a}{hint}")
        return found


def print_columns(
    common: Common,
    columns: "Columns[Any]",
    kind: type[msgspec.Struct],
    records: Sequence[msgspec.Struct],
    *,
    names: str | None,
    nothing: str,
) -> None:
    """Print a list in the selected format. names: value of `--columns`."""
    print_list(
        common,
        kind,
        records,
        lambda: columns.table(records, names),
        nothing=nothing,
        chosen=(lambda: columns.chosen(records, names)) if names else None,
    )
