"""Arguments of a command: of a program, of a known action, or of an action of a plug-in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from schemas import codec
from schemas.faults import Misused
from schemas.messages.actions import ActionArgs, ProcessArgs, action_of


@dataclass(frozen=True)
class Act:
    """An action by its name, with arguments as a map; the master checks those that it knows."""

    action: str
    args: Mapping[str, object] = field(default_factory=dict)


Work: TypeAlias = ActionArgs | Act | Sequence[str]


def encoded(work: Work) -> tuple[str, msgspec.Raw]:
    """Return the action of `work`, and its encoded arguments. Raises Refused or Misused."""
    if isinstance(work, Act):
        return work.action, msgspec.Raw(codec.encode(work.args))
    args = _arguments_of(work)
    return action_of(args).name, msgspec.Raw(codec.encode_request(args))


def _arguments_of(work: ActionArgs | Sequence[str]) -> ActionArgs:
    if isinstance(work, ActionArgs):
        return work
    if isinstance(work, str):
        raise Misused("field_invalid", "a list of arguments is needed, not one text: no shell runs")
    return ProcessArgs(argv=[*work])
