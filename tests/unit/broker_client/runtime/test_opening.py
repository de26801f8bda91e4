"""Causes of a connection that could not be opened, as people read them."""

import socket
import ssl

import pytest

from broker_client.runtime.link.opening import describe


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 4222)"), "refused"),
        (OSError(113, "Connect call failed ('10.0.0.1', 4222)"), "no route to host"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0),"
                " [Errno 111] Connect call failed ('127.0.0.1', 1)"
            ),
            "connection refused",
        ),
        (ssl.SSLError(1, "[SSL] wrong version number"), "wrong version number"),
        (EOFError(), "EOFError"),
    ],
)
def test_cause_is_given_in_the_words_of_the_system(error: Exception, text: str) -> None:
    said = describe(error)
    assert text in said
    assert "Errno" not in said
    assert "call failed" not in said
