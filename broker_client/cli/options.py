"""The options of every command, before or after its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from broker_client.cli.spans import to_seconds
from broker_client.cli.words import Output
from schemas.faults import Refused
from schemas.spans import DAY_S

LONGEST_S: Final = 30 * DAY_S
# Longer than the election of a leader in the broker's cluster (5.4 s measured).
TIMEOUT_S: Final = 10.0


def check_seconds(_type: object, value: float | None) -> None:
    """Validate a duration: positive and finite."""
    if value is not None and not 0 < value <= LONGEST_S:
        raise ValueError("give more than 0 and at most 30d: 90 (seconds), 5m, 1h30m")


def check_positive(_type: object, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError("give 1 or more")


def _check_output(_type: object, value: Output) -> None:
    if value not in ("table", "json"):
        raise ValueError(f"{value} is for lists: use table or json")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Common options. context: a file or a name. output: text, or JSON with documented names."""

    context: Annotated[
        str | None, Parameter(help="Context: a file, or a name below the contexts directory.")
    ] = None
    output: Annotated[
        Output,
        Parameter(
            name=["--output", "-o"],
            help="Form of what is printed: table or json.",
            show_choices=False,
            validator=_check_output,
        ),
    ] = "table"
    no_color: Annotated[
        bool, Parameter(negative="", help="No colours, as NO_COLOR in the environment.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Shared(Common):
    timeout: Annotated[
        float,
        Parameter(
            help="How long to wait for the broker, and for each answer: 10 (seconds), 1m.",
            converter=to_seconds,
            validator=check_seconds,
        ),
    ] = TIMEOUT_S


def pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Return the values of repeated options NAME=VALUE; raises Refused (`field_invalid`)."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Refused("field_invalid", f"{option} takes NAME=VALUE, not {text[:64]!a}")
        found[name] = value
    return found


def environment(texts: Sequence[str] | None, own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `--env NAME=VALUE`, or of `--env NAME` with its value in `own`.

    Raises Refused (`field_invalid`) for a name that `own` lacks.
    """
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or (not equals and name not in own):
            what = f"{name[:64]!a} is not set here" if name else f"not {text[:64]!a}"
            raise Refused("field_invalid", f"--env takes NAME=VALUE, or NAME: {what}")
        found[name] = value if equals else own[name]
    return found


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Listing(Shared):
    """Options of commands that print a list, with formats of a record per line."""

    output: Annotated[
        Output, Parameter(name=["--output", "-o"], help="Form of what is printed.")
    ] = "table"


COMMON: Final = Common()
SHARED: Final = Shared()
LISTING: Final = Listing()
