"""What may reach a terminal: text of others with everything that steers a terminal made visible.

What a task prints is shown to an operator. On a terminal, control sequences in it could rewrite
lines that are already there, set the clipboard or the title, or show text in another order than it
is stored. So they are spelled out there; a pipe or a file gets the bytes as they are.
"""

import codecs
import re
from typing import Final

# C0 without tab and line feed, DEL, C1; marks that reorder, hide or join text (bidi controls,
# zero-width and invisible characters, interlinear annotations, tags); line and paragraph separator.
_STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def shown(text: str) -> str:
    """`text` on one line, for tables and messages."""
    return _spell_out(text).replace("\n", "\\n").replace("\t", " ")


def shown_lines(text: str) -> str:
    """`text` with its own line ends and tabs, everything else that steers spelled out.

    A carriage return is kept out as well: alone it lets a line overwrite what stood there.
    """
    return _spell_out(text.replace("\r\n", "\n"))


def _spell_out(text: str) -> str:
    return _STEERING.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class TerminalText:
    """Bytes of one stream, piece by piece, as text for a terminal.

    A character or a line end that is cut between two pieces is put together again; bytes that are
    no UTF-8 are spelled out in hex.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        text = self._held + self._decoder.decode(data, final)
        self._held = ""
        if text.endswith("\r") and not final:
            self._held, text = "\r", text[:-1]
        return shown_lines(text)
