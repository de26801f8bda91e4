"""Addresses that cannot work are told apart, each with what to do."""

import pytest

from schemas.addresses import host_fault, url_fault, usable

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
