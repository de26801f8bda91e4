"""Every message type, found in the packages themselves, so that a new one cannot be forgotten."""

import importlib
import pkgutil
from typing import Final

import msgspec

import schemas.messages
from schemas import faults, timers

Kind = type[msgspec.Struct]

# Messages that live beside the code they belong to rather than in `schemas.messages`.
_ELSEWHERE: Final[dict[str, Kind]] = {
    "faults.FaultBody": faults.FaultBody,
    "timers.Timers": timers.Timers,
}


def _found() -> dict[str, Kind]:
    kinds = dict(_ELSEWHERE)
    for module_info in pkgutil.iter_modules(schemas.messages.__path__):
        module = importlib.import_module(f"schemas.messages.{module_info.name}")
        for name, value in vars(module).items():
            if _is_message(value, module.__name__) and not name.startswith("_"):
                kinds[f"{module_info.name}.{name}"] = value
    return dict(sorted(kinds.items()))


def _is_message(value: object, module: str) -> bool:
    is_struct = isinstance(value, type) and issubclass(value, msgspec.Struct)
    return is_struct and value.__module__ == module


KINDS: Final = _found()


def name_of(kind: Kind) -> str:
    """`work.Run` for `schemas.messages.work.Run`."""
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
