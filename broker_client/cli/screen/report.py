"""What is said, and where: data on stdout, words and faults on stderr."""

import contextlib
import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from broker_client.cli.options import Common
from broker_client.cli.screen.tables import PIPE_WIDTH, Column, Table, fit, hung
from broker_client.cli.screen.terminal import shown
from broker_client.cli.words import Output as Form
from broker_client.runtime.stdio import OutputFailed
from schemas.faults import MeshError
from schemas.messages.facts import CommandRecord
from schemas.messages.work import Output

_LEAST_WIDTH: Final = 20
# What a spreadsheet takes for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
# Select Graphic Rendition of ECMA-48; an own table, since a library for it loads for as long as an
# answer takes.
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
    """A record, or a list of them, as JSON has it; bytes become text, odd ones spelled out."""
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
    """All three fields, as documented; on the wire those that are empty are left out."""
    return {
        "stdout": output.stdout,
        "stderr": output.stderr,
        "truncated": output.truncated,
    }


def record_json(record: CommandRecord, output: Output | None = None) -> dict[str, object]:
    """A command's record with the output that came with it, or with `output` in its place."""
    fields: dict[str, object] = msgspec.to_builtins(record, builtin_types=(bytes,))
    shown_output = output or record.output
    fields["output"] = output_json(shown_output) if shown_output else None
    return fields


def print_json(value: object) -> None:
    # ASCII only, so that nothing in it can steer a terminal.
    print(json.dumps(plain(value), indent=2))


def print_table(
    common: Common, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, nothing: str
) -> None:
    """Print `rows`, or the line `nothing` on stderr; say which columns did not fit."""
    if not rows:
        say(nothing)
        return
    print_fitted(common, fit(columns, rows, screen_width()))


def print_list(
    common: Common,
    records: Sequence[msgspec.Struct],
    table: Callable[[], Table],
    *,
    nothing: str,
) -> None:
    """Print `records` in the form that is asked for; the line `nothing` on stderr if there is none.

    As JSON lines and CSV, records come one per line; columns of CSV are the fields of JSON.
    """
    if common.output == "json":
        print_json([*records])
    elif common.output == "jsonl":
        for record in records:
            print(json.dumps(plain(record)))
    elif common.output == "csv":
        print_csv([msgspec.to_builtins(record) for record in records])
    elif records:
        print_fitted(common, table())
    else:
        say(nothing)


def print_csv(records: Sequence[dict[str, object]]) -> None:
    """A heading and a line per record; a field of a field is `certificate.not_after`."""
    flat = [dict(_flat(record)) for record in records]
    names = [*dict.fromkeys(name for record in flat for name in record)]
    writer = csv.DictWriter(sys.stdout, names, restval="", lineterminator="\n")
    writer.writerow({name: _cell(name) for name in names})
    writer.writerows(flat)


def _flat(fields: dict[str, object], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, list):
            texts = [each if isinstance(each, str) else json.dumps(plain(each)) for each in value]
            yield above + name, _cell(";".join(texts))
        elif isinstance(value, str):
            yield above + name, _cell(value)
        else:
            yield above + name, "" if value is None or value == {} else shown(str(value))


def _cell(text: str) -> str:
    """Text for a spreadsheet, which would run a cell that begins as a formula does.

    Source: OWASP, "CSV Injection": such a cell gets an apostrophe before it.
    """
    return f"'{shown(text)}" if text.startswith(_FORMULA) else shown(text)


def print_fitted(common: Common, table: Table) -> None:
    print_lines(common, table.lines, heading=True)
    if table.hidden:
        say(f"hidden for lack of width: {', '.join(table.hidden)} (see --output json)")


def print_lines(
    common: Common, lines: Sequence[str], *, heading: bool = False, flush: bool = False
) -> None:
    """Print lines that are safe to show; on a terminal with colours for what matters.

    Where a width is known, longer ones are broken between words; in a pipe they stay whole.
    """
    coloured = has_colours(common)
    width = screen_width() if sys.stdout.isatty() or os.environ.get("COLUMNS") else None
    for index, whole in enumerate(lines):
        for line in [whole] if width is None else hung(whole, width):
            is_bold = coloured and heading and index == 0
            shown_line = styled(line, _BOLD) if is_bold else colour(line) if coloured else line
            print(shown_line, flush=flush)


def has_colours(common: Common) -> bool:
    """Whether stdout is a terminal that shows colours, and nobody has said no."""
    is_unwanted = common.no_color or os.environ.get("NO_COLOR")
    return sys.stdout.isatty() and not is_unwanted and os.environ.get("TERM") != "dumb"


def colour(line: str) -> str:
    """`line` with the states in it in their colours."""
    return _WORDS.sub(lambda found: styled(found.group(), _COLOURS[found.group()]), line)


def styled(text: str, style: int = _BOLD) -> str:
    return f"\x1b[{style}m{text}\x1b[0m"


def screen_width() -> int:
    """Cells of a line: COLUMNS where it is set, the terminal's, or 80 for a pipe or a file."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return max(_LEAST_WIDTH, int(given))
    if not sys.stdout.isatty():
        return PIPE_WIDTH
    try:
        return max(_LEAST_WIDTH, os.get_terminal_size(sys.stdout.fileno()).columns)
    except OSError:
        return PIPE_WIDTH


def say(text: str) -> None:
    """One line of words on stderr; what it does not take is lost, and changes no exit code."""
    _tell(f"mesh: {shown(text)}")


def _tell(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def told_if_unwritable(text: str) -> Iterator[None]:
    """Output that cannot be written in the block says `text` behind the reason."""
    try:
        yield
        sys.stdout.flush()
    except OutputFailed as error:
        error.add_note(text)
        raise


def print_submitted(id: str, answer: msgspec.Struct, output: Form) -> None:
    """The id of what was submitted, alone on stdout, or the answer as JSON.

    If that takes nothing, the id is told on stderr.
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


def print_fault(error: MeshError, output: Form) -> int:
    """Say what went wrong, which, and what to do about it; returns the exit code."""
    return _print_problem(
        error.code, error.message, error.kind.advice, error.retry, error.kind.exit_code, output
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
