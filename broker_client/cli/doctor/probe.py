"""Connecting to a broker step by step with plain sockets, to find the step that fails."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from broker_client.cli.doctor.findings import Trouble

DEFAULT_PORT: Final = 4222
START: Final = (
    "start the master, which starts its broker: broker-master serve --state-dir D; an external"
    " broker is started by itself; else correct the address in the context"
)
INFO_BYTES: Final = 32 * 1024


def resolve(url: str) -> tuple[str, str]:
    """Resolve the host of a URL; returns its addresses as text, and the host."""
    host, port = _target(url)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Trouble(
            f"{host} has no address",
            f"name service: {error.strerror or error}",
            "correct the address in the context, or the name service of this host",
        ) from error
    addresses = sorted({str(entry[4][0]) for entry in found})
    return ", ".join(addresses), host


def reach(url: str, timeout_s: float) -> tuple[str, str]:
    """Check that the port is open, and that it is a NATS server's."""
    host, port = _target(url)
    with _connected(host, port, timeout_s) as plain:
        greeting = _greeting(plain)
    if not greeting:
        raise Trouble(
            f"port {port} is open, and nothing came in {timeout_s:g} s",
            "the broker is stopped or overloaded, or another service has the port",
            f"see the host's load and the master's log; {START}",
        )
    if not greeting.startswith(b"INFO "):
        raise Trouble(
            f"port {port} is open, but no broker speaks there",
            "another service has the port, or something between changes the traffic",
            "check the port in the context, and proxies on the way",
        )
    return f"a broker answers at port {port}", url


def shake_hands(url: str, tls: ssl.SSLContext, timeout_s: float) -> tuple[str, str]:
    """Check TLS: the certificate is of the mesh's authority and has the host's name."""
    host, port = _target(url)
    with _connected(host, port, timeout_s) as plain:
        _greeting(plain)
        try:
            with tls.wrap_socket(plain, server_hostname=host) as secured:
                return f"{secured.version()}, its certificate is from our CA and for {host}", url
        except ssl.SSLCertVerificationError as error:
            raise Trouble(
                f"the broker's certificate is refused: {error.verify_message}",
                "another CA, another name, or a clock that is wrong on either side",
                "use an address that `broker-master init --host` was given, and this mesh's CA",
            ) from error
        except OSError as error:
            raise Trouble(
                f"no TLS: {error.strerror or type(error).__name__}",
                "the broker has no TLS, or something between breaks it",
                "check the broker's configuration, and proxies on the way",
            ) from error


def _target(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        return parts.hostname or "", parts.port or DEFAULT_PORT
    except ValueError as error:
        raise Trouble(
            f"not an address: {url!a}", str(error), "correct it in the context"
        ) from error


@contextlib.contextmanager
def _connected(host: str, port: int, timeout_s: float) -> Iterator[socket.socket]:
    try:
        plain = socket.create_connection((host, port), timeout=timeout_s)
    except TimeoutError as error:
        raise Trouble(
            f"port {port} of {host} does not answer in {timeout_s:g} s",
            "a firewall drops the packets, or the host is down",
            "let outbound connections to that port through, or start the host",
        ) from error
    except OSError as error:
        raise Trouble(
            f"port {port} of {host} cannot be reached: {(error.strerror or str(error)).lower()}",
            "no broker runs there, or the way is blocked",
            START,
        ) from error
    with plain:
        yield plain


def _greeting(plain: socket.socket) -> bytes:
    """Return the broker's first line, which comes before TLS; empty if none came."""
    data = b""
    with contextlib.suppress(OSError):
        while b"\n" not in data and len(data) < INFO_BYTES:
            piece = plain.recv(4096)
            if not piece:
                break
            data += piece
    return data
