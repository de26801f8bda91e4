from broker_master.core.doubts import Doubts

A, B, C = ("n1", 1), ("n1", 2), ("n2", 1)


def test_identity_is_clear_once_none_of_its_connections_is_in_doubt() -> None:
    doubts = Doubts()
    assert doubts.is_clear("ann")
    doubts.on_connected(A, "ann")
    doubts.on_connected(B, "ann")
    doubts.on_connected(C, "bob")
    doubts.on_connected(A, "ann")  # told twice
    doubts.forget(A)
    assert not doubts.is_clear("ann")
    doubts.forget(B)
    doubts.forget(B)
    assert doubts.is_clear("ann")
    assert not doubts.is_clear("bob")
    assert doubts.places() == {C}


def test_each_is_given_out_once_unless_it_is_put_back() -> None:
    doubts = Doubts()
    for place in (A, B, C):
        doubts.on_connected(place, "ann")
    assert doubts.take_fresh(2) == [A, B]
    assert doubts.take_fresh(2) == [C]
    assert doubts.take_fresh(2) == []
    doubts.forget(A)
    doubts.put_back([A, B])
    assert doubts.take_fresh(9) == [B]
    assert doubts.name_of(B) == "ann"
    assert doubts.name_of(A) is None


def test_restart_doubts_exactly_who_is_named() -> None:
    doubts = Doubts()
    doubts.on_connected(A, "ann")
    doubts.restart({C: "bob"})
    assert doubts.is_clear("ann")
    assert not doubts.is_clear("bob")
    assert len(doubts) == 1
    assert doubts.take_fresh(9) == [C]
