"""Which outages are told, when, and in which words."""

from broker_client.outages import GRACE_TURNS, PING_TURNS, SILENT_TURNS, Outages

AT = 1_000.0
UNTIL = "1970-01-01T00:18:10.000Z"
WHERE = "tls://mesh.example:4222"


def made(*, is_connected: bool = True) -> Outages:
    outages = Outages(WHERE, AT)
    if is_connected:
        outages.on_connected(AT)
        outages.on_heard(AT)
    return outages


def lines(outages: Outages, turns: int, **words: object) -> list[str]:
    found = []
    for _ in range(turns):
        outages.turn()
        found.append(outages.news(AT + 30, **words))  # type: ignore[arg-type]
    return [line for line in found if line]


def test_broker_that_is_never_reached_is_told_with_the_end_of_the_tries() -> None:
    outages = made(is_connected=False)
    assert lines(outages, GRACE_TURNS - 1) == []
    outages.on_lost(f"{WHERE}: connection refused", AT)
    assert lines(outages, 20, until=AT + 90) == [
        f"the broker at {WHERE} does not answer (connection refused); tried until {UNTIL}"
    ]


def test_short_reconnect_costs_no_word() -> None:
    outages = made()
    outages.on_lost("closed", AT)
    assert lines(outages, GRACE_TURNS - 1) == []
    outages.on_connected(AT + 1)
    outages.on_heard(AT + 1)
    assert lines(outages, PING_TURNS) == []


def test_lost_connection_and_its_return_are_told_once() -> None:
    outages = made()
    outages.on_lost("connection refused", AT + 5)
    [line] = lines(outages, 100, goes_on="c1 goes on")
    assert line.startswith("no connection to the broker since 1970-01-01T00:16:45.000Z (connection")
    assert line.endswith(" refused): reconnecting; c1 goes on")
    outages.on_connected(AT + 25)
    assert lines(outages, PING_TURNS) == [], "the master is not heard yet"
    outages.on_heard(AT + 26)
    assert lines(outages, PING_TURNS) == ["the broker answers again, after 25 s"]


def test_master_is_asked_in_two_ways_before_its_silence_is_told() -> None:
    outages = made()
    steps = [outages.turn() for _ in range(SILENT_TURNS)]
    assert [step for step in steps if step] == ["ping", "ping", "read"]
    assert outages.news(AT + 9) == "the master does not answer since 1970-01-01T00:16:40.000Z"
    assert outages.news(AT + 9) == ""
    outages.on_heard(AT + 20)
    assert outages.news(AT + 20) == "the master answers again, after 20 s"


def test_master_that_answers_pings_is_not_silent_however_long_a_request_is_held() -> None:
    outages = made()
    said = []
    for _ in range(10 * SILENT_TURNS):
        if outages.turn() == "ping":
            outages.on_heard(AT)
        said.append(outages.news(AT))
    assert set(said) == {""}


def test_broker_without_a_master_is_told_as_such() -> None:
    outages = made()
    assert outages.on_absent(AT + 2)
    assert not outages.on_absent(AT + 3), "told of once, however often it is asked"
    assert lines(outages, 30) == [
        "the master does not answer since 1970-01-01T00:16:42.000Z (none is listening)"
    ]


def test_silence_goes_on_when_the_broker_drops_the_connection_of_a_frozen_master() -> None:
    outages = made()
    assert len(lines(outages, SILENT_TURNS)) == 1
    outages.on_absent(AT + 8)
    assert lines(outages, 30) == []
    outages.on_heard(AT + 20)
    assert outages.news(AT + 20) == "the master answers again, after 20 s"


def test_lost_connection_after_a_silence_of_the_master_is_a_change() -> None:
    outages = made()
    lines(outages, SILENT_TURNS)
    outages.on_lost("closed", AT + 9)
    assert lines(outages, GRACE_TURNS) == [
        "no connection to the broker since 1970-01-01T00:16:49.000Z (closed): reconnecting"
    ]
