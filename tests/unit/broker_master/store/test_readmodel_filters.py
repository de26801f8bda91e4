"""A filter finds the same in SQL as on records, open or ended, whatever stands in either."""

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_master.core.facets import COSTLY, Facets, facets_of, open_value
from broker_master.core.records import command_record, history_record
from broker_master.store.readmodel import Filter, HistoryRow, ReadModel
from schemas import codec
from schemas.filters import holds
from schemas.listed import COMMANDS
from schemas.messages.facts import HistoryRecord
from schemas.states import TERMINAL, State
from schemas.timers import Timers
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import accepted, assigned, command_of, ended, started
from tests.unit.schemas.strategies import quick

NOW = EPOCH + 3600
# Few letters, so that patterns meet; those that GLOB, SQL or a terminal take for something else.
TEXTS = st.text(alphabet="aAbZ*?[]^'\"%_\\\0\n é", min_size=1, max_size=6)
ARGV = st.lists(TEXTS, min_size=1, max_size=3)
LABELS = st.dictionaries(TEXTS, TEXTS, max_size=2)
ENDS = st.sampled_from([str(each) for each in sorted(TERMINAL)])


@st.composite
def histories(draw: st.DrawFn) -> HistoryRecord:
    argv = draw(ARGV)
    code = draw(st.sampled_from([None, 0, 1, 100, -1, 2_000_000]))
    took = draw(st.sampled_from([None, 0.0, 1.5, 90.0]))
    run: dict[str, Any] = {"exit_code": code}
    if took is not None:
        run |= {"started_at": EPOCH + 1, "ended_at": EPOCH + 1 + took}
    command = command_of(
        accepted(
            action=draw(st.sampled_from(["process", "noop"])),
            args=msgspec.Raw(codec.encode({"argv": argv})),
            labels=draw(LABELS),
            client=draw(st.sampled_from(["ann", "Bob", "cron-1"])),
        ),
        assigned(),
        ended(state=State(draw(ENDS)), **run),
    )
    return history_record(command, command_record(command, Timers(), with_output=True))


PATTERNS = st.text(alphabet="aAbZ*?[]^'\"%_\\é", min_size=1, max_size=5).filter(
    lambda text: not text.startswith(("<", ">", "=", "!="))
)
WORDS = st.one_of(
    st.builds(lambda states: f"state:{','.join(states)}", st.lists(ENDS, min_size=1, max_size=3)),
    st.builds(lambda p: f"program:{p}", PATTERNS),
    st.builds(lambda p: f"argv:{p}", PATTERNS),
    st.builds(lambda p: f"client:{p}", PATTERNS),
    st.builds(lambda n, p: f"label:{n}={p}", PATTERNS, PATTERNS),
    st.builds(lambda n: f"label:{n}", PATTERNS),
    st.builds(
        lambda s, n: f"exit:{s}{n}",
        st.sampled_from(["", "=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["0", "1", "100", "-1"]),
    ),
    st.sampled_from(["exit:1*", "exit:*", "exit:?", "took:>1m", "took:<=90s", "took:0"]),
    st.sampled_from(["since:1h", "since:1s", "until:1h", "until:1s", "ended:1h", "ended:50m"]),
    st.sampled_from(["c1", "group:web", "on:web-*", "attempts:1", "action:noop", "attempts:>1"]),
)
FILTERS = st.lists(st.tuples(st.booleans(), WORDS), min_size=1, max_size=3)


@given(found=st.lists(histories(), min_size=1, max_size=12), words=FILTERS)
@quick(120)
def test_filter_finds_the_same_in_sql_as_on_records(
    found: list[HistoryRecord], words: list[tuple[bool, str]]
) -> None:
    text = " ".join(f"{'!' * is_not}{word}" for is_not, word in words)
    parsed = COMMANDS.parse(text, NOW)
    rows = []
    for seq, history in enumerate(found, 1):
        record = msgspec.structs.replace(history.record, id=f"c{seq}")
        rows.append(HistoryRow(seq, msgspec.structs.replace(history, record=record), b""))
    rows = [HistoryRow(row.seq, row.history, codec.encode(row.history)) for row in rows]
    expected = [
        row.seq for row in reversed(rows) if holds(parsed, partial(getattr, facets_of(row.history)))
    ]

    async def asked() -> list[int]:
        with tempfile.TemporaryDirectory() as folder:
            model = ReadModel.open(Path(folder) / "rows.db", "s")
            await model.add(rows)
            answer = await model.find(Filter(words=tuple(parsed), limit=50))
            model.close()
            return [seq for seq, _ in answer]

    assert asyncio.run(asked()) == expected, text


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_command_in_the_book_has_the_values_of_its_record(state: State) -> None:
    command = command_of(
        accepted(
            action="process",
            args=msgspec.Raw(codec.encode({"argv": ["/bin/apt", "-y"]})),
            labels={"a": "b"},
        ),
        assigned(),
        started(),
        ended(state=state, exit_code=3, started_at=EPOCH + 1, ended_at=EPOCH + 9),
    )
    facets = facets_of(history_record(command, command_record(command, Timers())))
    assert set(Facets._fields) >= {each.of or name for name, each in COMMANDS.fields.items()}
    for field in Facets._fields:
        assert open_value(command, field) == getattr(facets, field), field
    assert set(Facets._fields) >= COSTLY


async def test_search_reads_between_two_sequences_and_what_a_caller_may_see(
    tmp_path: Path,
) -> None:
    model = ReadModel.open(tmp_path / "rows.db", "s")
    command = command_of(accepted(), assigned(), ended())
    history = history_record(command, command_record(command, Timers()))
    rows = [
        HistoryRow(seq, msgspec.structs.replace(history, record=record), b"")
        for seq in range(1, 9)
        for record in [
            msgspec.structs.replace(history.record, id=f"c{seq}", group=["web", "db"][seq % 2])
        ]
    ]
    await model.add([row._replace(payload=codec.encode(row.history)) for row in rows])
    words = tuple(COMMANDS.parse("c*", NOW))
    wanted = Filter(words=words, before=8, above=2, groups=("web",))
    assert [seq for seq, _ in await model.find(wanted)] == [6, 4]
    await model.trim(5)
    assert [seq for seq, _ in await model.find(Filter(words=words))] == [8, 7, 6, 5]
    model.close()
