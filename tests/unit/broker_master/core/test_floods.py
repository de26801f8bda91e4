from broker_master.core.floods import Floods, Place, Sent

NODE = "n1"
LOUD, QUIET = "ULOUD", "UQUIET"


def looked(floods: Floods, now_s: float, *sent: tuple[int, str, int, int]) -> list[str]:
    """Return the keys that are found, given connection, key, messages and bytes of each so far."""
    places: dict[Place, Sent] = {(NODE, each[0]): Sent(*each[1:]) for each in sent}
    return [flood.user for flood in floods.look(places, now_s)]


def begun(*, messages_per_s: float = 1000, bytes_per_s: float = 0) -> Floods:
    floods = Floods(messages_per_s=messages_per_s, bytes_per_s=bytes_per_s)
    assert looked(floods, 100.0, (1, LOUD, 0, 0), (2, QUIET, 0, 0)) == []
    return floods


def test_sec_s11_key_that_sends_too_much_is_shut_out_and_no_other() -> None:
    floods = begun()
    assert looked(floods, 101.0, (1, LOUD, 3100, 0), (2, QUIET, 900, 0)) == [LOUD]
    assert floods.shut_out(101.0) == {LOUD}
    assert floods.shut_out(110.9) == {LOUD}
    assert floods.shut_out(111.1) == set()


def test_sec_s11_connections_of_one_key_have_one_allowance() -> None:
    floods = begun()
    assert looked(floods, 101.0, (1, LOUD, 1600, 0), (3, LOUD, 1600, 0)) == [LOUD]


def test_sec_s11_bytes_count_beside_messages() -> None:
    floods = begun(bytes_per_s=1000)
    assert looked(floods, 101.0, (1, LOUD, 1, 3100), (2, QUIET, 1, 900)) == [LOUD]


def test_rate_within_the_limit_never_shuts_out() -> None:
    floods = begun()
    for second in range(1, 200):
        assert looked(floods, 100.0 + second, (1, LOUD, 990 * second, 0)) == []


def test_sec_s11_each_time_is_longer_until_it_is_forgiven() -> None:
    floods = begun()
    now_s, sent, spans = 100.0, 0, []
    for _ in range(8):
        now_s, sent = now_s + 1, sent + 10_000
        places = {(NODE, 1): Sent(LOUD, sent, 0)}
        (flood,) = floods.look(places, now_s)
        spans.append(flood.for_s)
        now_s += flood.for_s
        assert floods.look(places, now_s) == []
    assert spans == [10, 20, 40, 80, 160, 320, 600, 600]
    now_s += 700
    assert floods.look({(NODE, 1): Sent(LOUD, sent, 0)}, now_s) == []
    assert floods.shut_out(now_s) == set()
    (flood,) = floods.look({(NODE, 1): Sent(LOUD, sent + 10_000, 0)}, now_s + 1)
    assert flood.for_s == 10


def test_counters_of_a_node_that_is_seen_for_the_first_time_are_where_it_begins() -> None:
    """A master that starts, or a node that comes back, finds connections of long ago."""
    floods = Floods(messages_per_s=1000, bytes_per_s=0)
    assert looked(floods, 100.0, (1, LOUD, 10_000_000, 0)) == []
    assert looked(floods, 101.0) == []
    assert looked(floods, 102.0, (1, LOUD, 10_000_500, 0)) == []
    assert looked(floods, 103.0, (1, LOUD, 10_001_000, 0)) == []


def test_long_time_between_two_looks_is_no_flood() -> None:
    floods = begun()
    assert looked(floods, 1100.0, (1, LOUD, 900_000, 0), (2, QUIET, 0, 0)) == []
    assert looked(floods, 1101.0, (1, LOUD, 901_900, 0)) == []


def test_connection_without_limits_or_without_a_key_is_never_shut_out() -> None:
    floods = begun(messages_per_s=0)
    assert looked(floods, 101.0, (1, LOUD, 10**9, 10**12)) == []
    floods = begun()
    assert looked(floods, 101.0, (1, "", 10**9, 0)) == []
