"""Connections are counted, so that the end of the last one of an identity is noticed once."""

from broker_master.core.connected import Connected

ONE, TWO, THREE = ("N1", 1), ("N1", 2), ("N2", 1)


def test_end_of_the_last_connection_names_its_identity() -> None:
    known = Connected()
    for place in (ONE, TWO, ONE):
        known.on_connected(place, "web-1")
    known.on_connected(THREE, "web-2")
    assert known.on_ended(ONE) is None, "it has another, as while its certificate is renewed"
    assert known.on_ended(ONE) is None, "it is told of once"
    assert known.on_ended(TWO) == "web-1"
    assert known.on_ended(("N9", 9)) is None
    known.on_connected(ONE, "web-1")
    assert known.on_ended(ONE) == "web-1"
    assert known.places() == {THREE}


def test_list_of_the_broker_counts_for_what_was_there_when_it_was_asked_for() -> None:
    known = Connected()
    known.on_connected(ONE, "web-1")
    known.on_connected(TWO, "web-2")
    before = known.places()
    known.on_connected(THREE, "web-3")  # while the list is on its way
    known.on_listed(before, {ONE: "web-1", ("N1", 5): "web-5"})
    assert known.places() == {ONE, THREE, ("N1", 5)}
    assert known.on_ended(TWO) is None
    assert known.on_ended(("N1", 5)) == "web-5"
