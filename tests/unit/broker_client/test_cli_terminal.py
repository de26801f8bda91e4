"""Output of other programs cannot steer the terminal of its reader."""

import io
import sys

import pytest

from broker_client.cli.connection.do import conclude
from broker_client.cli.options import Common
from broker_client.cli.screen.report import plain, print_lines
from broker_client.cli.screen.sinks import Memory, Screen, Writer
from broker_client.cli.screen.terminal import TerminalText, shown, shown_lines
from broker_client.output import OutputPart
from schemas.messages.facts import CommandRecord
from schemas.messages.work import Output

ESC = "\x1b"
HOSTILE = [
    f"{ESC}[2J",  # clear the screen
    f"{ESC}[1A{ESC}[2Kok",  # go up and rewrite a line
    f"{ESC}[31mred{ESC}[0m",
    f"{ESC}]0;title\x07",
    f"{ESC}]52;c;cm0gLXJmIH4=\x07",  # set the clipboard
    f"{ESC}]8;;http://evil.example\x07link{ESC}]8;;\x07",
    f"{ESC}]8;;http://evil.example{ESC}\\link{ESC}]8;;{ESC}\\",
    f"{ESC}]1337;File=inline=1:AAAA\x07",
    f"{ESC}]4;1;rgb:ff/00/00{ESC}\\",
    f'{ESC}P$q"p{ESC}\\',  # ask the terminal, which then types the answer
    f"{ESC}[6n",
    f"{ESC}[c",
    f"{ESC}[?1049h",
    f"{ESC}[?25l",
    f"{ESC}[?2004h",
    f"{ESC}c",
    f"{ESC}(0",
    f"{ESC}%G",
    f"{ESC}_command{ESC}\\",
    f"{ESC}^privacy{ESC}\\",
    "\x9b2J",  # the same in one byte of C1
    "\x9d52;c;AA\x9c",
    "\x90q\x9c",
    "\x85next line",
    "\x8dreverse",
    "all good\rall bad ",
    "\r",
    "abc\b\b\bxyz",
    "bell\x07",
    "\x00nul",
    "\x0e shift \x0f",
    "\x0bvertical\x0cfeed",
    "\x7fdel",
    "\u202egnp.exe",  # right to left override
    "\u202aembedded\u202c",
    "\u2066isolated\u2069",
    "\u200fmark\u200e",
    "\u061cmark",
    "zero\u200bwidth",
    "\ufeffbom",
    "soft\xadhyphen",
    "line\u2028separator\u2029",
    "\ufff9a\ufffab\ufffb",
    "\U000e0041tag",
    "\u2060joiner",
]
STEERING = {
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\xad\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060",
    *"\u2066\u2067\u2068\u2069\ufeff\ufff9\ufffa\ufffb\U000e0041",
}


def test_there_are_at_least_forty_hostile_payloads() -> None:
    assert len(set(HOSTILE)) >= 40


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_that_steers_reaches_a_terminal(text: str) -> None:
    assert STEERING.isdisjoint(shown(text))
    assert STEERING.isdisjoint(shown_lines(text))
    assert STEERING.isdisjoint(TerminalText().feed(text.encode(), final=True))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_that_steers_hides_between_two_pieces(text: str) -> None:
    terminal = TerminalText()
    pieces = [terminal.feed(bytes([byte])) for byte in text.encode()]
    assert STEERING.isdisjoint("".join(pieces) + terminal.feed(b"", final=True))


def test_text_stays_as_it_is() -> None:
    text = "Grüße, 世界 👍\tend\n"
    assert TerminalText().feed(text.encode()) == text


def test_line_end_of_two_bytes_becomes_one_also_when_cut() -> None:
    terminal = TerminalText()
    assert terminal.feed(b"a\r") + terminal.feed(b"\nb") == "a\nb"


def test_character_cut_in_two_is_put_together() -> None:
    terminal = TerminalText()
    assert terminal.feed(b"\xc3") + terminal.feed(b"\xbc") == "ü"


def test_bytes_that_are_no_text_are_spelled_out() -> None:
    assert TerminalText().feed(b"\xff\xfe") == "\\xff\\xfe"


def test_one_line_stays_one_line() -> None:
    assert shown("a\nb") == "a\\nb"


class Tty(io.BytesIO):
    def isatty(self) -> bool:
        return True


async def test_pipe_gets_bytes_unaltered_and_terminal_gets_them_made_safe() -> None:
    pipe, tty = io.BytesIO(), Tty()
    screen = Screen(stdout=pipe, stderr=tty)
    hostile = b"\x1b[2J\xff\r\n"
    await screen.write("stdout", hostile)
    await screen.write("stderr", hostile)
    assert pipe.getvalue() == hostile
    assert tty.getvalue() == b"\\x1b[2J\\xff\n"


async def test_memory_is_bounded_and_says_that_it_cut() -> None:
    memory = Memory(limit_bytes=5)
    await memory.write("stdout", b"abc")
    await memory.write("stderr", b"defg")
    assert memory.output() == Output(stdout=b"abc", stderr=b"de", truncated=True)


class Notes(Memory):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


async def test_gaps_cuts_and_new_attempts_are_shown() -> None:
    notes = Notes()
    writer = Writer(notes)
    await writer.write(OutputPart(1, "stdout", 0, b"ab"))
    await writer.write(OutputPart(1, "stdout", 7, b"cd"))
    await writer.write(OutputPart(2, "stdout", 0, b"ef"))
    await writer.write(OutputPart(2, "stdout", 2, b"", cut=True))
    assert notes.output().stdout == b"abcdef"
    assert notes.notes == [
        "5 bytes of stdout are missing here",
        "attempt 2 begins",
        "the output went beyond its limit: not all of it was kept",
    ]


def test_json_spells_out_bytes_that_are_no_text() -> None:
    assert plain({"stdout": b"a\xff"}) == {"stdout": "a\\xff"}


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_words_that_matter_are_coloured_on_a_terminal_only(
    variables: dict[str, str],
    is_coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lines = ["NAME  STATE", "web   inactive, not active; an active-looking name"]
    print_lines(Common(), lines, heading=True)
    assert capsys.readouterr().out.splitlines() == lines
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_lines(Common(), lines, heading=True)
    assert capsys.readouterr().out.splitlines() == (
        [
            "\x1b[1mNAME  STATE\x1b[0m",
            "web   \x1b[31minactive\x1b[0m, not \x1b[32mactive\x1b[0m; an active-looking name",
        ]
        if is_coloured
        else lines
    )


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("action", ["sql.execute", "sql.query"])
def test_sec_s43_result_of_an_agent_steers_nothing(
    capsys: pytest.CaptureFixture[str], action: str, text: str
) -> None:
    """An agent chooses the names in a result as well as the values."""
    at = "2025-11-21T20:00:00.000Z"
    record = CommandRecord(
        id="c1",
        group="db",
        agent=None,
        action=action,
        state="succeeded",
        attempts=[],
        submitted_at=at,
        client="ann",
        reason="",
        ended_at=at,
        result={f"x{text}": {text: [text]}},
    )
    assert conclude(record, Common()) == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).startswith(("x", "mesh: x"))
    assert STEERING.isdisjoint((printed.out + printed.err).replace("\n", ""))
