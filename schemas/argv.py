"""The arguments of a program, as people read them."""

import re
import shlex
from collections.abc import Sequence
from typing import Final

from schemas.texts import cut_text, spell_out, visible

# Characters of a program's line.
PROGRAM_LEN: Final = 500
_BASE_LEN: Final = 64
# Inside of `$'…'`, as bash, zsh and ksh read it.
_BLANK: Final = re.compile(r"[\t\n]")
_SPELLED: Final = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\x1b": "\\e", "'": "\\'", "\\": "\\\\"}


def quoted(argv: Sequence[str]) -> str:
    r"""`argv` in one line as a shell would take it, control characters spelled out: `$'a\tb'`.

    At most `PROGRAM_LEN` characters; a longer line is cut and ends with a mark.
    """
    line, room = [], PROGRAM_LEN
    for argument in argv:
        # The rest is cut anyway, so it is not quoted.
        text = quoted_word(argument[: room + 1])
        line.append(text)
        room -= len(text) + 1
        if room < 0:
            break
    return cut_text(" ".join(line), PROGRAM_LEN)


def quoted_word(text: str) -> str:
    r"""Return `text` as a shell takes it: `a`, `'a b'`, or `$'a\tb'` with control characters."""
    if text.isascii() and text.isprintable():
        return shlex.quote(text)
    if spell_out(text) == text and not _BLANK.search(text):
        return shlex.quote(text)
    return f"$'{''.join(map(_in_dollar_quotes, text))}'"


def _in_dollar_quotes(character: str) -> str:
    code = ord(character)
    if character in _SPELLED:
        return _SPELLED[character]
    if spell_out(character) == character:
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def base_name(argv: Sequence[str]) -> str:
    """`apt-get` of `/usr/bin/apt-get -y upgrade`; control characters spelled out."""
    if not argv:
        return ""
    return visible(argv[0].rstrip("/").rpartition("/")[2][:_BASE_LEN])[:_BASE_LEN]
