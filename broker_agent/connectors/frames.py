"""Messages between an agent and its worker processes, on a socket of type SEQPACKET.

    agent                     worker
    Setup, once ────────────▶
    Call, its output's file ▶ ─── Opened, of a new session ───▶ Answered
    Cancel, Hold ───────────▶ during a call
    EndSession ─────────────▶ Answered

A message that is too large for the socket travels as a file in memory, behind a mark.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from schemas import limits

# The smallest default of a host's largest message is 208 KiB; larger ones travel as a file.
PLAIN_BYTES: Final = 64 * 1024
BUFFER_BYTES: Final = 256 * 1024
ANSWER_BYTES: Final = 128 * 1024
# The order to write the secrets of a script into the output; no client can give it.
SCRIPT_SECRETS: Final = "script.secrets"
# A byte that begins no value of msgpack.
_AS_FILE: Final = b"\xc1"
_FDS_MAX: Final = 2
_Text = Annotated[str, Meta(max_length=limits.TEXT_LEN)]
_Word = Annotated[str, Meta(max_length=limits.LABEL_LEN)]


class Setup(msgspec.Struct, frozen=True, kw_only=True, tag="setup"):
    """order: of the profile, for `ready.take_up`. profile: its hash.

    cell: control group to enter, or empty.
    """

    order: bytes
    profile: _Word = ""
    cell: str = ""


class CallOrder(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    """args: encoded; of the action's type. timeout_s: from now. output_bytes: most of its output.

    Its descriptor is the file for the output.
    """

    id: str
    key: str
    action: str
    args: bytes
    timeout_s: float
    output_bytes: int


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Interrupt the call."""


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """on: write no output; off: go on."""

    on: bool


class EndSession(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """End at the server what another worker has left there."""

    server_id: str


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """A session is open. server_id: its name at the server, or empty."""

    server_id: _Word


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """The end of a call. code: of its fault; empty: it succeeded."""

    result: Annotated[bytes, Meta(max_length=limits.RESULT_BYTES)] = b""
    code: _Word = ""
    message: _Text = ""
    effect: Literal["none", "unknown", "done"] = "unknown"


Order: TypeAlias = Setup | CallOrder | Cancel | Hold | EndSession
Said: TypeAlias = Opened | Answered

_encode = msgspec.msgpack.Encoder().encode
_orders: Final = msgspec.msgpack.Decoder(Order)
_said: Final = msgspec.msgpack.Decoder(Said)


def pair() -> tuple[socket.socket, socket.socket]:
    """Make the sockets of an agent, which does not block, and of its worker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in (ours, theirs):
        with suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    ours.setblocking(False)
    return ours, theirs


def send_order(sock: socket.socket, order: Order, fds: Sequence[int] = ()) -> None:
    """Send an order with descriptors. Raises OSError: the worker is gone, or reads nothing."""
    data = _encode(order)
    if len(data) <= PLAIN_BYTES:
        _send(sock, data, fds)
        return
    file = os.memfd_create("order", os.MFD_CLOEXEC)
    try:
        os.write(file, data)
        _send(sock, _AS_FILE, [*fds, file])
    finally:
        os.close(file)


def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    if fds:
        socket.send_fds(sock, [data], fds, socket.MSG_NOSIGNAL)
    else:
        sock.send(data, socket.MSG_NOSIGNAL)


def receive_order(sock: socket.socket) -> tuple[Order, list[int]] | None:
    """Wait for an order and its descriptors; None when the agent is gone."""
    data, fds, _, _ = socket.recv_fds(sock, BUFFER_BYTES, _FDS_MAX)
    if not data:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    if data == _AS_FILE:
        file = fds.pop()
        try:
            data = os.pread(file, os.fstat(file).st_size, 0)
        finally:
            os.close(file)
    return _orders.decode(data), fds


def say(sock: socket.socket, said: Said) -> None:
    """Send the agent a message."""
    sock.send(_encode(said), socket.MSG_NOSIGNAL)


def hear(sock: socket.socket) -> Said | None:
    """Read a message of a worker; None when it is gone.

    Raises BlockingIOError without one, OSError, and msgspec.MsgspecError for what is none.
    """
    data = sock.recv(ANSWER_BYTES)
    return _said.decode(data) if data else None
