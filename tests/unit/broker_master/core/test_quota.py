from hypothesis import given, settings
from hypothesis import strategies as st

from broker_master.core.quota import Quotas
from broker_master.core.room import StoreRoom

MB = 1024 * 1024
LOUD, QUIET = ("n", 1), ("n", 2)


def test_sec_s11_command_above_its_quota_loses_its_own_output_and_keeps_its_last() -> None:
    quotas = Quotas(limit=100 * MB, quota=10 * MB)
    purges = []
    for look in range(1, 31):
        sent = {LOUD: ("loud", look * 2 * MB), QUIET: ("quiet", look * 1000)}
        purges += quotas.look(sent, last_seq=look * 100, size=10 * MB)
    assert {each.agent for each in purges} == {"loud"}
    places = [each.up_to for each in purges]
    assert places == sorted(places)
    assert 8 * MB <= quotas.kept("loud") <= 10 * MB
    assert places[-1] == 2500  # 60 MB sent by look 30: the last ten are of looks 26 to 30


def test_counters_that_begin_anew_with_a_connection_lose_nothing() -> None:
    quotas = Quotas(limit=100 * MB, quota=10 * MB)
    for number in range(1, 20):
        quotas.look({("n", number): ("loud", 3 * MB)}, last_seq=number, size=0)
        assert quotas.kept("loud") <= 10 * MB
    assert quotas.kept("loud") >= 6 * MB


def test_sec_s11_full_stream_is_relieved_by_the_largest() -> None:
    quotas = Quotas(limit=20 * MB, quota=18 * MB)
    for look in range(1, 13):
        quotas.look({LOUD: ("loud", look * MB), QUIET: ("quiet", look)}, last_seq=look, size=MB)
    (purge,) = quotas.look(
        {LOUD: ("loud", 12 * MB), QUIET: ("quiet", 12)}, last_seq=13, size=19 * MB
    )
    assert purge.agent == "loud"
    assert quotas.kept("loud") >= 5 * MB


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5 * MB)), max_size=200))
def test_output_never_exceeds_the_quota_and_a_step(steps: list[tuple[int, int]]) -> None:
    quotas = Quotas(limit=1000 * MB, quota=8 * MB)
    totals: dict[int, int] = {}
    for seq, (agent, more) in enumerate(steps, 1):
        totals[agent] = totals.get(agent, 0) + more
        sent = {("n", each): (f"a{each}", total) for each, total in totals.items()}
        quotas.look(sent, last_seq=seq, size=0)
        for each in totals:
            assert quotas.kept(f"a{each}") <= 8 * MB + MB


def test_sec_s11_last_part_of_the_event_store_is_not_for_commands() -> None:
    appended = 0
    room = StoreRoom(100_000, lambda: appended)
    while room.has(1000):
        appended += 1500
    assert 85_000 < appended < 90_000
    # Of these it was told that half is there; what is appended since, by whomever, counts.
    room.note_size(appended // 2, appended)
    assert room.has(1000)
    appended += 46_000
    assert not room.has(1000)
    room.note_size(95_000, appended)
    assert not room.has(1)
