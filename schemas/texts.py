"""Untrusted text: cut to a length with a mark, and escaped for terminals."""

import re
from typing import Final

from schemas import limits

MARK: Final = "… (cut)"
# Begins the reason of a failure that the program itself has given.
ON_STDERR: Final = "stderr: "


def cut_text(text: str, most: int = limits.REASON_LEN) -> str:
    """Return `text` cut to `most` characters; a cut text ends with the mark."""
    return text if len(text) <= most else text[: most - len(MARK)] + MARK


# C0 without tab and line feed, DEL, C1; marks that reorder, hide or join text (bidi controls,
# zero-width and invisible characters, interlinear annotations, tags); line and paragraph separator.
_STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return `text` on one line, with all control characters escaped."""
    if text.isascii() and text.isprintable():
        return text
    return spell_out(text).replace("\n", "\\n").replace("\t", " ")


def spell_out(text: str) -> str:
    """As `visible`, but line feeds and tabs stay."""
    return _STEERING.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
