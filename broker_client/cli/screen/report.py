"""Output of the command line: data on stdout, notices and faults on stderr."""

import contextlib
import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Final, NamedTuple, TypeGuard, get_args, get_origin

import msgspec

from broker_client.cli.options import Common
from broker_client.cli.screen.size import screen_width
from broker_client.cli.screen.tables import Column, Table, fit, hung
from broker_client.cli.screen.terminal import shown
from broker_client.cli.words import Output as Form
from broker_client.runtime.stdio import OutputFailed
from schemas.faults import MeshError
from schemas.messages.api.commands import SubmitAnswer
from schemas.messages.facts import CommandRecord
from schemas.messages.work import Output

# First characters of a formula in a spreadsheet.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
# Select Graphic Rendition of ECMA-48; a library for it would load for as long as an answer takes.
_BOLD, _RED, _GREEN, _YELLOW, _CYAN = 1, 31, 32, 33, 36
_COLOURS: Final = {
    "active": _GREEN,
    "succeeded": _GREEN,
    "running": _CYAN,
    "no_response": _YELLOW,
    "unknown": _YELLOW,
    "failed": _RED,
    "lost": _RED,
    "killed_fenced": _RED,
    "timed_out": _RED,
    "undeliverable": _RED,
    "rejected": _RED,
    "inactive": _RED,
}
_WORDS: Final = re.compile(rf"(?<![\w-])({'|'.join(_COLOURS)})(?![\w-])")


def plain(value: object) -> object:
    """Convert records for JSON; bytes become text, invalid ones escaped."""
    return _textual(msgspec.to_builtins(value, builtin_types=(bytes,)))


def _textual(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {key: _textual(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_textual(item) for item in value]
    return value


def output_json(output: Output) -> dict[str, object]:
    """Return all three documented fields; on the wire empty ones are left out."""
    return {
        "stdout": output.stdout,
        "stderr": output.stderr,
        "truncated": output.truncated,
    }


def record_json(record: CommandRecord, output: Output | None = None) -> dict[str, object]:
    """Return a command's record with its own output, or with `output` in its place."""
    fields: dict[str, object] = msgspec.to_builtins(record, builtin_types=(bytes,))
    shown_output = output or record.output
    fields["output"] = output_json(shown_output) if shown_output else None
    return fields


def print_json(value: object) -> None:
    # ASCII only, so that no control character reaches a terminal.
    print(json.dumps(plain(value), indent=2))


def print_table(
    common: Common, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, nothing: str
) -> None:
    """Print `rows`, or the line `nothing` on stderr; names the columns that did not fit."""
    if not rows:
        say(nothing)
        return
    print_fitted(common, fit(columns, rows, screen_width()))


class Chosen(NamedTuple):
    """Selected columns: their names, and a row of values per record, None if unknown."""

    names: Sequence[str]
    rows: Sequence[Sequence[object]]


def print_list(
    common: Common,
    kind: type[msgspec.Struct],
    records: Sequence[msgspec.Struct],
    table: Callable[[], Table],
    *,
    nothing: str,
    chosen: Callable[[], Chosen] | None = None,
) -> None:
    """Print `records` in the selected format; the line `nothing` on stderr if there are none.

    JSON lines and CSV have one record per line. Columns of CSV are the fields of JSON, the same for
    all records of the `kind`, or the selected ones.
    """
    if common.output == "json":
        print_json([*records])
    elif common.output == "jsonl":
        for record in records:
            print(json.dumps(plain(record)))
    elif common.output == "csv" and chosen is not None:
        names, rows = chosen()
        _write_csv(names, [[_text_of(value) for value in row] for row in rows])
    elif common.output == "csv":
        print_csv(kind, records)
    elif records:
        print_fitted(common, table())
    else:
        say(nothing)


def print_csv(kind: type[msgspec.Struct], records: Sequence[msgspec.Struct]) -> None:
    """Print a heading and a line per record; nested fields as `certificate.not_after`."""
    names = [*_fields(kind)]
    flat = [dict(_flat(msgspec.to_builtins(record))) for record in records]
    _write_csv(names, [[each.get(name, "") for name in names] for each in flat])


def _write_csv(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([_cell(name) for name in names])
    writer.writerows(rows)


def _fields(kind: type[msgspec.Struct], above: str = "") -> Iterator[str]:
    """Yield the names of all fields, nested ones as `record.field`."""
    for field in msgspec.structs.fields(kind):
        kinds = get_args(field.type) if get_origin(field.type) is UnionType else (field.type,)
        inner = next((each for each in kinds if _is_record(each)), None)
        if inner is None:
            yield f"{above}{field.name}"
        else:
            yield from _fields(inner, f"{above}{field.name}.")


def _is_record(kind: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _flat(fields: Mapping[str, object], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value with its name; also whole nested records, which have no column."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        yield above + name, _text_of(value)


def _text_of(value: object) -> str:
    """Return a cell: `a;b` for a list, `name=value;…` for a map, empty for None.

    A record in a list is `name=value name=value`, without its empty fields. Numbers have six
    places at most: of seconds, microseconds.
    """
    if isinstance(value, dict):
        return _cell(";".join(f"{name}={_text_of(each)}" for name, each in sorted(value.items())))
    if isinstance(value, list):
        return _cell(";".join(map(_entry, value)))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return _cell(value) if isinstance(value, str) else "" if value is None else shown(str(value))


def _entry(value: object) -> str:
    if not isinstance(value, dict):
        return value if isinstance(value, str) else _text_of(value)
    fields = ((name, _text_of(each)) for name, each in value.items())
    return " ".join(f"{name}={text}" for name, text in fields if text)


def _cell(text: str) -> str:
    """Return a safe cell: a spreadsheet would run a text that begins as a formula.

    Source: OWASP, "CSV Injection": such a cell gets an apostrophe as prefix.
    """
    return f"'{shown(text)}" if text.startswith(_FORMULA) else shown(text)


def print_fitted(common: Common, table: Table) -> None:
    print_lines(common, table.lines, heading=True)
    if table.hidden:
        say(f"hidden for lack of width: {', '.join(table.hidden)} (see --output json)")


def print_lines(
    common: Common, lines: Sequence[str], *, heading: bool = False, flush: bool = False
) -> None:
    """Print escaped lines; on a terminal with colours.

    On a screen longer lines are broken between words; in a pipe they stay whole.
    """
    coloured = has_colours(common)
    width = screen_width() if sys.stdout.isatty() or os.environ.get("COLUMNS") else None
    for index, whole in enumerate(lines):
        for line in [whole] if width is None else hung(whole, width):
            is_bold = coloured and heading and index == 0
            shown_line = styled(line, _BOLD) if is_bold else colour(line) if coloured else line
            print(shown_line, flush=flush)


def has_colours(common: Common) -> bool:
    """Whether stdout is a terminal with colours, and neither option nor variable disables them."""
    is_unwanted = common.no_color or os.environ.get("NO_COLOR")
    return sys.stdout.isatty() and not is_unwanted and os.environ.get("TERM") != "dumb"


def colour(line: str) -> str:
    """Return `line` with its states in colours."""
    return _WORDS.sub(lambda found: styled(found.group(), _COLOURS[found.group()]), line)


def styled(text: str, style: int = _BOLD) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"


def say(text: str) -> None:
    """Print one line on stderr; a failed write is ignored and changes no exit code."""
    _tell(f"mesh: {shown(text)}")


def _tell(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def told_if_unwritable(text: str) -> Iterator[None]:
    """Append `text` to the reason of a failed write in the block."""
    try:
        yield
        sys.stdout.flush()
    except OutputFailed as error:
        error.add_note(text)
        raise


def print_submitted(id: str, answer: msgspec.Struct, output: Form) -> None:
    """Print the id of a submission, alone on stdout, or the answer as JSON.

    After a failed write the id is printed on stderr.
    """
    try:
        if output == "json":
            print_json(answer)
        else:
            print(id)
        sys.stdout.flush()
    except OutputFailed as error:
        error.add_note(f"{id} was submitted")
        raise
    except BrokenPipeError:
        say(f"{id} was submitted")
        raise


def print_retried(answer: SubmitAnswer, output: Form) -> None:
    """Print the id of a command that was submitted again, and whether it was so before."""
    print_submitted(answer.id, answer, output)
    if answer.duplicate and output != "json":
        say(f"{answer.id} was submitted before and is {answer.state}")


def print_fault(error: MeshError, output: Form) -> int:
    """Print the fault and its advice; returns the exit code."""
    return _print_problem(
        error.code, error.message, error.advice, error.retry, error.kind.exit_code, output
    )


def print_usage(message: str, advice: str, output: Form) -> int:
    return _print_problem("usage", message, advice, "never", 2, output)


def print_problem(code: str, message: str, advice: str, exit_code: int, output: Form) -> int:
    return _print_problem(code, message, advice, "never", exit_code, output)


def _print_problem(
    code: str, message: str, advice: str, retry: str, exit_code: int, output: Form
) -> int:
    if output == "json":
        fault = {"code": code, "message": message, "retry": retry, "advice": advice}
        _tell(json.dumps(fault))
    else:
        say(f"{message} ({code})")
        if advice:
            _tell(f"  {shown(advice)}")
    return exit_code
