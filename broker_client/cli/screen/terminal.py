"""Escaping of untrusted text for a terminal.

Operators read the output of tasks. On a terminal, control sequences in it could rewrite earlier
lines, set the clipboard or the title, or change the order of the text. So they are escaped there; a
pipe or a file gets the original bytes.
"""

import codecs

from schemas.texts import spell_out, visible


def shown(text: str) -> str:
    """Return `text` escaped on one line, for tables and messages."""
    return visible(text)


def shown_lines(text: str) -> str:
    """Return `text` escaped, with its own line feeds and tabs.

    A carriage return is escaped as well: it would let a line overwrite an earlier text.
    """
    return spell_out(text.replace("\r\n", "\n"))


class TerminalText:
    """Converts the bytes of one stream, piece by piece, to text for a terminal.

    Characters and line ends that are split between two pieces are joined; bytes that are not UTF-8
    are escaped in hex.
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
