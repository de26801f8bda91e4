"""Addresses that cannot work are told apart, each with what to do."""

import pytest

from schemas.addresses import digest, host_fault, learned, place_to_listen, url_fault, usable
from schemas.faults import Refused

GOOD = (
    "tls://broker.example.net:4222",
    "tls://10.0.0.7:4222",
    "tls://[2001:db8::1]:4222",
    "nats://localhost:4222",
)


@pytest.mark.parametrize("url", GOOD)
def test_address_that_may_work_has_no_fault(url: str) -> None:
    assert url_fault(url) == ""


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tls://0.0.0.0:4222", "to listen on"),
        ("tls://[::]:4222", "to listen on"),
        ("tls://256.1.1.1:4222", "no IPv4 address"),
        ("tls://[fe80::1%eth0]:4222", "zone"),
        ("tls://[fe80::1]:4222", "one link only"),
        ("tls://224.0.0.1:4222", "no address of one host"),
        ("ws://broker:80", "ws:// is not spoken here"),
        ("http://broker:80", "http:// is not spoken here"),
        ("tls://broker:0", "not tls://HOST:PORT"),
        ("tls://broker:99999", "not tls://HOST:PORT"),
        ("tls://", "neither a host name"),
        ("tls://bad host:1", "neither a host name"),
        ("broker:4222", "not tls://HOST:PORT"),
    ],
)
def test_address_that_cannot_work_says_why(url: str, words: str) -> None:
    assert words in url_fault(url)


def test_bad_address_does_not_make_the_good_ones_useless() -> None:
    assert usable(("tls://0.0.0.0:1", GOOD[0])) == (GOOD[0],)
    assert usable(("tls://0.0.0.0:1",)) == ("tls://0.0.0.0:1",)


@pytest.mark.parametrize("host", ["0.0.0.0", "256.1.1.1", "fe80::1%eth0", "::", "a b"])
def test_host_that_nobody_can_connect_to_has_a_fault(host: str) -> None:
    assert host_fault(host)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("28099", ("127.0.0.1", 28099)),
        (":28099", ("127.0.0.1", 28099)),
        ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("[::]:8080", ("::", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("localhost:8080", ("localhost", 8080)),
    ],
)
def test_port_alone_is_of_this_machine_and_all_else_is_asked_for(
    text: str, place: tuple[str, int]
) -> None:
    assert place_to_listen("http", text) == place


@pytest.mark.parametrize(
    "text", ["", "nowhere", "host:port", "1:99999", "0:8080", "*:8080", "8.8:1", "h:", "127.1:80"]
)
def test_place_that_is_none_is_refused_by_the_name_of_its_setting(text: str) -> None:
    with pytest.raises(Refused, match=r"^--http .*(HOST:PORT|address)") as caught:
        place_to_listen("--http", text)
    assert caught.value.code == "settings_invalid"


OLD, NEW, OTHER = "tls://old:4222", "tls://new:4222", "tls://other:4222"


@pytest.mark.parametrize(
    ("offered", "present", "working", "wanted"),
    [
        ([NEW], [OLD], "", (NEW,)),
        # A way that works is kept, first, until another one has worked.
        ([NEW], [OLD], OLD, (OLD, NEW)),
        ([NEW], [OLD, NEW], NEW, (NEW,)),
        ([OLD, NEW], [OLD, NEW], NEW, (NEW, OLD)),
        # Of a cluster whose nodes name each other: such an address needs another node's name.
        ([NEW], [OLD], OTHER, (NEW,)),
        # What cannot work, and what is not protected as the present ones are, is not taken.
        (["tls://0.0.0.0:4222", "http://x", NEW, NEW], [OLD], "", (NEW,)),
        (["nats://new:4222"], [OLD], "", (OLD,)),
        (["nats://new:4222"], ["nats://old:4222"], "", ("nats://new:4222",)),
        ([], [OLD], OLD, (OLD,)),
    ],
)
def test_offered_addresses_replace_those_not_in_use(
    offered: list[str], present: list[str], working: str, wanted: tuple[str, ...]
) -> None:
    assert learned(offered, present, working) == wanted


def test_digest_is_of_the_addresses_whatever_their_order() -> None:
    assert digest([OLD, NEW]) == digest([NEW, OLD, NEW]) != digest([NEW])
    assert digest([]) == ""
