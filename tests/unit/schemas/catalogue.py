"""Every message type, found in the packages themselves, so that a new one cannot be forgotten."""

import importlib
import pkgutil
from typing import Final, TypeGuard

import msgspec

import schemas.messages
from schemas import faults, timers
from schemas.messages.actions.base import Arguments
from schemas.messages.actions.sql import SqlArgs
from schemas.messages.api import base

Kind = type[msgspec.Struct]

# Messages that live beside the code they belong to rather than in `schemas.messages`.
_ELSEWHERE: Final[dict[str, Kind]] = {
    "faults.FaultBody": faults.FaultBody,
    "timers.Timers": timers.Timers,
}


# Common fields of others; never sent.
_BASES: Final[tuple[Kind, ...]] = (base.Request, Arguments, SqlArgs)


def _found() -> dict[str, Kind]:
    kinds = dict(_ELSEWHERE)
    for module_info in pkgutil.walk_packages(schemas.messages.__path__, "schemas.messages."):
        module = importlib.import_module(module_info.name)
        for value in vars(module).values():
            if _is_message(value, module.__name__) and value not in _BASES:
                kinds[name_of(value)] = value
    return dict(sorted(kinds.items()))


def _is_message(value: object, module: str) -> TypeGuard[Kind]:
    is_struct = isinstance(value, type) and issubclass(value, msgspec.Struct)
    return is_struct and value.__module__ == module


def name_of(kind: Kind) -> str:
    """`work.Run` for `schemas.messages.work.Run`; a package is one room: `api.Done`."""
    room = kind.__module__.removeprefix("schemas.").removeprefix("messages.").partition(".")[0]
    return f"{room}.{kind.__name__}"


KINDS: Final = _found()
