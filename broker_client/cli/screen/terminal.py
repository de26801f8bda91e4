"""What may reach a terminal: text of others with everything that steers a terminal made visible.

What a task prints is shown to an operator. On a terminal, control sequences in it could rewrite
lines that are already there, set the clipboard or the title, or show text in another order than it
is stored. So they are spelled out there; a pipe or a file gets the bytes as they are.
"""

import codecs

from schemas.texts import spell_out, visible


def shown(text: str) -> str:
    """`text` on one line, for tables and messages."""
    return visible(text)


def shown_lines(text: str) -> str:
    """`text` with its own line ends and tabs, everything else that steers spelled out.

    A carriage return is kept out as well: alone it lets a line overwrite what stood there.
    """
    return spell_out(text.replace("\r\n", "\n"))


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
