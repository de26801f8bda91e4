"""Options of `mesh run` for many agents, its bar, and output line by line."""

import pytest

from broker_client.cli.command import logs
from broker_client.cli.command.logs import LineWriter
from broker_client.cli.fanout.options import Batch, Many, batch_of
from broker_client.cli.fanout.progress import bar
from broker_client.cli.run.program import divided
from broker_client.cli.words import BEHIND, with_mark
from broker_client.output import OutputPart
from schemas.faults import Refused
from schemas.messages.api import Mark
from schemas.messages.fanouts import FanoutRecord


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.written: list[tuple[str, bytes]] = []
        self.notes: list[str] = []

    async def write(self, stream: str, data: bytes) -> None:
        self.written.append((stream, data))

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def stdout(self) -> bytes:
        return b"".join(data for stream, data in self.written if stream == "stdout")


def part(offset: int, data: bytes, *marks: tuple[int, str], stream: str = "stdout") -> OutputPart:
    told = tuple(Mark(stream=stream, offset=at, at=moment) for at, moment in marks)
    return OutputPart(1, stream, offset, data, marks=told)


async def lines_of(*parts: OutputPart, tail: int | None = None) -> Kept:
    sink = Kept()
    writer = LineWriter(sink, tail=tail, since_s=None, is_stamped=False)
    for each in parts:
        await writer.write(each)
    await writer.flush(is_last=True)
    return sink


async def test_tail_keeps_the_last_lines_of_each_stream() -> None:
    sink = await lines_of(
        part(0, b"one\ntwo\nthr"),
        part(0, b"bad\n", stream="stderr"),
        part(11, b"ee\nfour"),
        tail=2,
    )
    assert sink.written == [("stdout", b"three\n"), ("stdout", b"four"), ("stderr", b"bad\n")]


async def test_tail_is_bounded_whatever_its_lines_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "TAIL_BYTES", 10)
    sink = await lines_of(part(0, b"aaaa\nbbbb\ncccc\n"), tail=100)
    assert sink.stdout == b"bbbb\ncccc\n"


async def test_line_without_an_end_is_shown_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LINE_BYTES", 4)
    sink = await lines_of(part(0, b"aaaabbbbcc\ndd"))
    assert sink.stdout == b"aaaabbbbcc\ndd"
    assert max(len(data) for _, data in sink.written) <= 4


async def test_line_has_the_time_at_which_it_began() -> None:
    sink = Kept()
    writer = LineWriter(sink, tail=None, since_s=None, is_stamped=True)
    sooner, later = "2026-01-01T00:00:00.000Z", "2026-01-01T00:00:05.000Z"
    await writer.write(part(0, b"one\ntw", (0, sooner)))
    await writer.write(part(6, b"o\nthree\n", (6, later)))
    await writer.flush(is_last=True)
    said = [data.decode() for _, data in sink.written]
    assert said == [f"{sooner} one\n", f"{sooner} two\n", f"{later} three\n"]


async def test_lines_since_a_moment_only() -> None:
    sink = Kept()
    writer = LineWriter(sink, tail=None, since_s=1767225602.0, is_stamped=False)
    marks = ((0, "2026-01-01T00:00:00.000Z"), (4, "2026-01-01T00:00:05.000Z"))
    await writer.write(part(0, b"one\ntwo\n", *marks))
    await writer.flush(is_last=True)
    assert sink.stdout == b"two\n"


async def test_master_that_sends_no_times_is_named_and_nothing_shown() -> None:
    sink = Kept()
    writer = LineWriter(sink, tail=None, since_s=0.0, is_stamped=False)
    with pytest.raises(Refused, match="does not say when") as caught:
        await writer.write(part(0, b"one\n"))
    assert (caught.value.code, sink.written) == ("filter_unsupported", [])


@pytest.mark.parametrize(
    ("text", "agents", "most"),
    [(None, 8, 0), ("3", 8, 3), ("25%", 8, 2), ("25%", 3, 1), ("100%", 3, 3), ("1%", 1000, 10)],
)
def test_batch_is_a_number_or_a_part(text: str | None, agents: int, most: int) -> None:
    assert batch_of(text).of(agents) == most


@pytest.mark.parametrize("text", ["0", "0%", "101%", "-1", "1.5", "%", "", "25 %"])
def test_batch_that_nobody_can_mean_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="25%"):
        batch_of(text)
    assert batch_of(None) == Batch()


def test_options_for_many_are_refused_for_one_and_where_they_contradict() -> None:
    assert Many().problem(is_many=False) == ""
    assert "for many agents" in Many(live=True).problem(is_many=False)
    assert "needs --batch" in Many(batch_sleep="5s").problem(is_many=True)
    assert "--live shows" in Many(live=True, display="ok").problem(is_many=True)
    assert Many(batch="25%", batch_sleep="5s", live=True).problem(is_many=True) == ""


def test_words_before_the_dashes_are_targets_with_all_only() -> None:
    tokens = with_mark(["run", "--all", "web-*", "--", "sh", "--", "x"])
    assert tokens == ["run", "--all", "web-*", "--", BEHIND, "sh", "--", "x"]
    words = ("web-*", BEHIND, "sh", "--", "x")
    assert divided(words, is_all=True) == (("web-*",), ("sh", "--", "x"))
    assert divided(words, is_all=False) == ((), ("web-*", "sh", "--", "x"))
    assert divided(("uname",), is_all=True) == ((), ("uname",))
    assert with_mark(["command", "show", "--", "x"]) == ["command", "show", "--", "x"]


def test_bar_counts_and_names_who_is_missing() -> None:
    record = FanoutRecord(
        id="f1",
        client="ann",
        state="running",
        reason="",
        submitted_at="",
        ended_at=None,
        agents=4,
        counts={"failed": 1, "running": 2, "succeeded": 1},
        at_once=0,
        max_failures=None,
    )
    assert bar(record, {"web-4", "web-3"}) == (
        "[##########..........] 2 of 4 agents have ended, 1 not well; missing: web-3 web-4"
    )
