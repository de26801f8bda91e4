"""The action `script.run`, through a connection to scripts of the host."""

from typing import Annotated, Final

from msgspec import Meta

from schemas import limits
from schemas.messages.actions.base import Action, Arguments, invalid
from schemas.messages.actions.sql import ParameterName
from schemas.messages.fields import Name

# Each value stays in one element of the script's argv.
Value = None | bool | int | float | Annotated[str, Meta(max_length=limits.ARGUMENT_BYTES)]


class ScriptRunArgs(Arguments, frozen=True, kw_only=True):
    """Run a script of the host's profile. params: values of its parameters, by name."""

    script: Name
    params: Annotated[dict[ParameterName, Value], Meta(max_length=limits.LABELS)] = {}
    stdin: bytes = b""


def _check(args: ScriptRunArgs) -> None:
    for name, value in args.params.items():
        if isinstance(value, str) and "\0" in value:
            raise invalid("script.run", f"a NUL byte in params.{name}")


SCRIPT_RUN: Final = Action(
    name="script.run",
    args=ScriptRunArgs,
    does="runs a script that the host's profile names",
    check=_check,
    summary=lambda args: f"script {args.script}",
    capability="script",
)
