from broker_master.core.standing import Standing

A, B, C = ("n1", 1), ("n1", 2), ("n2", 1)


def test_identity_is_clear_once_none_of_its_connections_is_in_doubt() -> None:
    standing = Standing()
    assert standing.is_clear("ann")
    standing.on_connected(A, "ann")
    standing.on_connected(B, "ann")
    standing.on_connected(C, "bob")
    standing.on_connected(A, "ann")  # told twice
    standing.forget(A)
    assert not standing.is_clear("ann")
    standing.forget(B)
    standing.forget(B)
    assert standing.is_clear("ann")
    assert not standing.is_clear("bob")
    assert standing.places() == {C}


def test_each_is_given_out_once_unless_it_is_put_back() -> None:
    standing = Standing()
    for place in (A, B, C):
        standing.on_connected(place, "ann")
    assert standing.take_fresh(2) == [A, B]
    assert standing.take_fresh(2) == [C]
    assert standing.take_fresh(2) == []
    standing.forget(A)
    standing.put_back([A, B])
    assert standing.take_fresh(9) == [B]
    assert standing.name_of(B) == "ann"
    assert standing.name_of(A) is None


def test_restart_doubts_exactly_who_is_named() -> None:
    standing = Standing()
    standing.on_connected(A, "ann")
    standing.restart({C: "bob"})
    assert standing.is_clear("ann")
    assert not standing.is_clear("bob")
    assert len(standing) == 1
    assert standing.take_fresh(9) == [C]
