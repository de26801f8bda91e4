"""Names and ids: their syntax, checked before anything is built from them.

A name is part of subjects, of file names, of certificate subjects and of registry keys, so this
rule keeps wildcards, dots, slashes and path traversal out of all of them.
"""

import re
from typing import Final

from schemas.faults import Refused

NAME_MAX_LEN: Final = 63
COMMAND_ID_MAX_LEN: Final = 64

# `$` alone would also match before a final line break, which would then enter a subject.
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)"
ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
TAG_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$(?!\n)"
TAG_VALUE_PATTERN: Final = r"^[A-Za-z0-9_./:-]{0,63}$(?!\n)"
ACTION_PATTERN: Final = r"^[a-z][a-z0-9_.-]{0,31}$(?!\n)"
# Meaning of each pattern, for people.
PATTERNS_IN_WORDS: Final = {
    NAME_PATTERN: "1 to 63 of a-z, 0-9 and '-', a letter or digit first",
    ID_PATTERN: "1 to 64 of A-Z, a-z, 0-9, '_' and '-'",
    TAG_NAME_PATTERN: "1 to 63 of A-Z, a-z, 0-9 and '_./-', a letter or digit first",
    ACTION_PATTERN: "1 to 32 of a-z, 0-9 and '_.-', a letter first",
    TAG_VALUE_PATTERN: "at most 63 of A-Z, a-z, 0-9 and '_./:-'",
}

# Prefix of command ids that only the mesh itself may choose.
RESERVED_PREFIX: Final = "__"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_COMMAND_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_name(text: str) -> bool:
    """Whether `text` may name an agent, a group, a client, a connection or a recipe."""
    return _NAME.fullmatch(text) is not None


def is_command_id(text: str) -> bool:
    return _COMMAND_ID.fullmatch(text) is not None


def check_name(kind: str, text: str) -> str:
    """Return `text`, or raise Refused (`name_invalid`) that names its `kind`."""
    if _NAME.fullmatch(text) is None:
        raise Refused("name_invalid", f"not a name for {kind}: {_shown(text)}")
    return text


def check_command_id(text: str) -> str:
    if _COMMAND_ID.fullmatch(text) is None:
        raise Refused("id_invalid", f"not a command id: {_shown(text)}")
    return text


def is_reserved(command_id: str) -> bool:
    """Whether the id has the prefix reserved for the mesh itself."""
    return command_id.startswith(RESERVED_PREFIX)


def refuse_reserved(command_id: str) -> Refused:
    return Refused("id_reserved", f"ids of this form are the mesh's own: {_shown(command_id)}")


def _shown(text: str) -> str:
    """Return the start of `text` on one line, with control characters escaped."""
    return ascii(text if len(text) <= NAME_MAX_LEN else text[:NAME_MAX_LEN] + "…")
