"""Help of the three programs: one look, which fits the screen."""

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from broker_client.cli.screen.size import screen_width

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument

_MOST: Final = 100
# Cells of the left column; longer names have a line of their own.
_LEFT: Final = 26
# Cells of choices beside their option; more are a sentence.
_CHOICES: Final = 50
# Words for values, by option, where neither its type nor its own name says it.
_WORDS: Final[Mapping[str, str]] = {
    "--arg": "NAME=TEXT",
    "--args": "FILE",
    "--batch": "N|N%",
    "--batch-sleep": "TIME",
    "--body": "FILE",
    "--by": "NAME",
    "--call-timeout": "TIME",
    "--columns": "NAMES",
    "--console": "URL",
    "--context": "FILE|NAME",
    "--cwd": "DIR",
    "--drop-host": "HOST",
    "--env": "NAME[=VALUE]",
    "--expiring": "TIME",
    "--for": "TIME",
    "--grafana": "URL",
    "--http": "[HOST:]PORT",
    "--label": "NAME=VALUE",
    "--listen": "[HOST:]PORT",
    "--log-level": "LEVEL",
    "--monitor": "[HOST:]PORT",
    "--nats": "URL",
    "--nats-host": "ADDRESS",
    "--nats-port": "PORT",
    "--out": "PATH",
    "--output": "table|json",
    "--runbooks": "URL",
    "--silent-for": "TIME",
    "--since": "WHEN",
    "--sort": "COLUMN",
    "--state-dir": "DIR",
    "--tag": "NAME=VALUE",
    "--tail": "N",
    "--timeout": "TIME",
    "--until": "WHEN",
    "--try-for": "TIME",
    "--untag": "NAME",
    "--urls": "URL",
    "--within": "TIME",
}


def overview(usage: str, about: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return a list of commands. rows: name, and what it does in one line."""
    width = max(len(name) for name, _ in rows)
    name = usage.rpartition(" ")[0]
    hint = f"`{name} NAME --help` shows the options of each."
    lines = [line for row in rows for line in _row(*row, left=width)]
    return "\n".join([f"Usage: {usage}", "", *_filled(about), "", *lines, "", *_filled(hint)])


def manual(name: str, about: str, command: "App") -> str:
    """Return the help of a command. name: as typed; about: what it does."""
    known = [each for each in command.assemble_argument_collection() if each.show]
    texts = _described(command.help)
    values = [each for each in known if not _flags(each)]
    options = [each for each in known if _flags(each)]
    needed = [_spec(each) for each in options if each.required]
    usage = " ".join([name, *needed, "[OPTIONS]", *map(_place, values)])
    first = textwrap.wrap(
        f"Usage: {usage}", _width(), subsequent_indent="  ", break_on_hyphens=False
    )
    lines = [*first, "", *_filled(about)]
    for title, rows in (("Arguments:", values), ("Options:", options)):
        if rows:
            lines += ["", title]
            lines += [line for each in rows for line in _row(_spec(each), _text(each, texts))]
    return "\n".join(lines)


def _width() -> int:
    return min(screen_width(), _MOST)


def _filled(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        yield from textwrap.wrap(paragraph, _width(), break_on_hyphens=False) or [""]


def _row(name: str, text: str, *, left: int = _LEFT) -> list[str]:
    """Return one entry in two columns; a long name has a line of its own."""
    room = max(20, _width() - left - 4)
    lines = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    indent = " " * (left + 4)
    if len(name) > left:
        return [f"  {name}", *(f"{indent}{line}" for line in lines)]
    first = f"  {name:<{left}}  {lines[0]}".rstrip()
    return [first, *(f"{indent}{line}" for line in lines[1:])]


def _flags(argument: "Argument") -> list[str]:
    """Return the names of an option; empty for a positional argument."""
    names = [each for each in argument.names if each.startswith("-")]
    return [each for each in names if not re.match("--(no|empty)-", each)] or names


def _spec(argument: "Argument") -> str:
    """Return `--timeout TIME`, `--output, -o table|json`, `--yes`, or `AGENTS`."""
    flags = _flags(argument)
    if not flags:
        return argument.names[0]
    value = value_of(argument)
    return ", ".join(flags) + (f" {value}" if value else "")


def value_of(argument: "Argument") -> str:
    """Return the word for the value of an option; empty for a switch."""
    kinds = _kinds(argument.hint)
    name = _flags(argument)[0]
    if kinds == {bool}:
        return ""
    if (choices := _choices(argument)) and len(choices) <= _CHOICES:
        return choices
    if getattr(argument.parameter.converter, "__name__", "") == "to_seconds":
        return "TIME"
    own = name.lstrip("-").rpartition("-")[2].upper()
    usual = "FILE" if Path in kinds else "N" if kinds & {int, float} else own
    return _WORDS.get(name, usual)


def _choices(argument: "Argument") -> str:
    return "|".join(argument.get_choices() or ())


def _kinds(hint: Any) -> set[Any]:  # noqa: ANN401  (an annotation)
    """Return the types in an annotation, without None."""
    inner = [each for each in get_args(hint) if each not in (type(None), Ellipsis)]
    if not inner or not all(isinstance(each, type) or get_args(each) for each in inner):
        return {hint}
    return set().union(*map(_kinds, inner))


def _place(argument: "Argument") -> str:
    name = argument.names[0]
    many = "..." if argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _text(argument: "Argument", texts: Mapping[str, str]) -> str:
    text = argument.parameter.help or texts.get(argument.field_info.name, "")
    if len(choices := _choices(argument)) > _CHOICES:
        text = f"{text} One of {choices.replace('|', ', ')}."
    default = argument.field_info.default
    if argument.required:
        return f"{text} [required]" if _flags(argument) else text
    if default in (None, False, "", (), inspect.Parameter.empty) or argument.hint is bool:
        return text
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    unit = " s" if isinstance(default, float) and value_of(argument) == "TIME" else ""
    return f"{text} [default: {shown}{unit}]"


def _described(help: str) -> dict[str, str]:
    """Return the texts of the section `Parameters` of a docstring, by name."""
    _, found, section = inspect.cleandoc(help).partition("Parameters\n----------\n")
    texts: dict[str, list[str]] = {}
    lines = texts.setdefault("", [])
    for line in section.splitlines() if found else ():
        if line and not line[0].isspace():
            lines = texts.setdefault(line.strip(), [])
        else:
            lines.append(line.strip())
    return {name: " ".join(each) for name, each in texts.items()}
