"""The description of an action, and what its arguments are checked with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from schemas import codec, limits
from schemas.faults import Refused
from schemas.messages.fields import Text

Args = TypeVar("Args", bound=msgspec.Struct)
# Possible effect of a lost attempt.
Effect = Literal["none", "unknown"]
Environment = Annotated[dict[Text, Text], Meta(max_length=limits.MAP_LEN)]


class Arguments(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Arguments of an action: an unknown one is refused, never ignored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Action(Generic[Args]):
    """One kind of work.

    does: its sentence in docs/protocol.md. check: raises Refused (`field_invalid`) for arguments
    that no agent could run. summary: the one line in lists. takes_slot: whether its task counts
    against the slots of the agent; an action without a slot has ended as soon as it is recorded.
    effect: possible effect of a lost attempt. from_start: agents of the first release have it, and
    so does an agent whose `Hello` lists no actions. capability: of the kinds of connections that
    it works through (`sql`, `http`, `file`, `script`, `any`); empty: it needs no connection.
    """

    name: str
    args: type[Args]
    does: str
    check: Callable[[Args], None] = lambda _args: None
    summary: Callable[[Args], str]
    takes_slot: bool = True
    effect: Effect = "unknown"
    from_start: bool = False
    capability: str = ""

    def decode(self, raw: msgspec.Raw) -> Args:
        """The typed arguments. Raises Refused as `decode_args` does."""
        try:
            args = codec.decode_trusted(self.args, bytes(raw))
        except Refused as error:
            if "unknown field" in str(error.__cause__):
                raise Refused("argument_unknown", f"{self.name}: {error.message}") from error
            raise Refused(error.code, f"args of {self.name}: {error.message}") from error
        self.check(args)
        return args

    def summarize(self, raw: msgspec.Raw) -> str:
        """Return the line that describes the encoded arguments. Raises as `decode`."""
        return self.summary(self.decode(raw))


def invalid(action: str, what: str) -> Refused:
    """Return the fault for arguments that no agent could run."""
    return Refused("field_invalid", f"args of {action}: {what}")
