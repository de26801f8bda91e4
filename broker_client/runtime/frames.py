"""Renderer and parser of the frames of the NATS client protocol.

Source: the client protocol page of the NATS documentation. nats-py has both, but one hostile
message stops its parser: a header block that is not UTF-8 ends its read loop, and a vertical tab in
a subject shifts the fields of the line, so that the sender chooses the subscription that gets it.
Here lines are split at the single spaces that the broker writes, and headers are parsed on demand.
Parsing is also about three times as fast.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from schemas.faults import Corrupt, Misused

CRLF: Final = b"\r\n"
HEADER_LINE: Final = b"NATS/1.0"
NO_RESPONDERS: Final = 503
# Far above the broker's own limits (4 KiB for a line, 1 MiB for a payload unless set higher).
LINE_MAX_BYTES: Final = 64 * 1024
PAYLOAD_MAX_BYTES: Final = 64 * 1024 * 1024


class Msg:
    """One received message. `headers` and `status` are parsed on demand and never raise."""

    __slots__ = ("_parsed", "data", "raw_headers", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, raw_headers: bytes = b"") -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.raw_headers = raw_headers
        self._parsed: tuple[int, str, dict[str, str]] | None = None

    @property
    def headers(self) -> dict[str, str]:
        return self._read()[2]

    @property
    def status(self) -> int:
        """The broker's status code, such as 503 for no responders; 0 if there is none."""
        return self._read()[0]

    @property
    def description(self) -> str:
        return self._read()[1]

    def _read(self) -> tuple[int, str, dict[str, str]]:
        if self._parsed is None:
            self._parsed = parse_headers(self.raw_headers)
        return self._parsed

    def __repr__(self) -> str:
        return f"Msg({self.subject!r}, {len(self.data)} bytes)"


def parse_headers(raw: bytes) -> tuple[int, str, dict[str, str]]:
    """Return status, description and headers of a block; malformed lines are left out.

    Bytes that are not UTF-8 become U+FFFD. The last one of duplicate headers counts.
    """
    if not raw.startswith(HEADER_LINE):
        return 0, "", {}
    first, _, rest = raw[len(HEADER_LINE) :].partition(CRLF)
    code, _, description = first.strip().partition(b" ")
    status = int(code) if code.isdigit() and len(code) == 3 else 0
    headers = {}
    for line in rest.split(CRLF):
        name, colon, value = line.partition(b":")
        if colon and name:
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode(
                "utf-8", "replace"
            )
    return status, description.decode("utf-8", "replace"), headers


def check_subject(subject: str) -> str:
    """Return `subject`, or raise Misused: a space or a line end would inject another command."""
    if not subject or " " in subject or not subject.isprintable():
        raise Misused("internal", f"not a subject: {subject[:80]!a}")
    return subject


def render_pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    """Render a message without headers; both subjects must be checked before."""
    if reply:
        return b"%b%b\r\n" % (f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload)
    return b"%b%b\r\n" % (f"PUB {subject} {len(payload)}\r\n".encode(), payload)


def render_hpub(subject: str, header_block: bytes, payload: bytes, reply: str = "") -> bytes:
    """Render a message with the block of `render_headers`; both subjects must be checked before."""
    size = len(header_block)
    to = f"{subject} {reply}" if reply else subject
    head = f"HPUB {to} {size} {size + len(payload)}\r\n".encode()
    return b"%b%b%b\r\n" % (head, header_block, payload)


def render_headers(headers: Mapping[str, str]) -> bytes:
    """Render a header block; raises Misused for names and values that would break their line."""
    lines = ["NATS/1.0\r\n"]
    for name, value in headers.items():
        if not name.isprintable() or not name or ":" in name or " " in name:
            raise Misused("internal", f"not a header name: {name[:80]!a}")
        if "\r" in value or "\n" in value:
            raise Misused("internal", f"a line end in the value of header {name}")
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("utf-8", "replace")


class Events(Protocol):
    """Callbacks of a reader for everything except messages."""

    def on_ping(self) -> None: ...

    def on_pong(self) -> None: ...

    def on_info(self, text: bytes) -> None: ...

    def on_error_line(self, text: str) -> None: ...

    def on_callback_failed(self, subject: str, error: BaseException) -> None: ...


class FrameReader:
    """Parses received bytes and calls the route of each message at once, in order.

    routes: callbacks by subscription id, looked up at each message, so that the map may change.
    A callback that raises loses only its own message.
    """

    def __init__(self, routes: Mapping[bytes, Callable[[Msg], object]], events: Events) -> None:
        self.routes = routes
        self._events = events
        self._rest = b""
        self.malformed = 0
        self.unrouted = 0
        self.messages = 0

    def feed(self, data: bytes, most: int = 1 << 62) -> bool:
        """Deliver at most `most` messages; True if there may be more, for `feed(b"")`.

        Raises Corrupt if the peer does not speak NATS; the connection is unusable then.
        """
        if self._rest:
            data = self._rest + data
        position, size, until = 0, len(data), self.messages + most
        find = data.find
        while position < size:
            if self.messages >= until:
                self._rest = data[position:]
                return True
            line_end = find(CRLF, position)
            if line_end < 0:
                if size - position > LINE_MAX_BYTES:
                    raise Corrupt("broker_unreachable", "the broker sent a line without an end")
                break
            kind = data[position : position + 4]
            if kind == b"MSG " or kind == b"HMSG":  # noqa: PLR1714 - the hot path: no set, no tuple
                following = self._message(data, position, line_end, kind == b"HMSG")
                if following < 0:
                    break
                position = following
            else:
                self._control(data[position:line_end])
                position = line_end + 2
        self._rest = data[position:]
        return False

    def _message(self, data: bytes, start: int, line_end: int, has_headers: bool) -> int:  # noqa: FBT001
        """Deliver the message at `start`; returns the position behind it, -1 if incomplete."""
        fields = data[start:line_end].split(b" ")
        try:
            total = int(fields[-1])
            header_size = int(fields[-2]) if has_headers else 0
        except (ValueError, IndexError) as error:
            raise Corrupt("broker_unreachable", "the broker sent a malformed line") from error
        if not 0 <= header_size <= total <= PAYLOAD_MAX_BYTES:
            raise Corrupt("broker_unreachable", f"the broker announced {total} bytes")
        body = line_end + 2
        end = body + total
        if end + 2 > len(data):
            return -1
        self.messages += 1
        count = len(fields) - has_headers
        if count == 4:
            reply = ""
        elif count == 5:
            reply = fields[3].decode("utf-8", "replace")
        else:
            self.malformed += 1
            return end + 2
        route = self.routes.get(fields[2])
        if route is None:
            self.unrouted += 1
            return end + 2
        subject = fields[1].decode("utf-8", "replace")
        split = body + header_size
        try:
            route(Msg(subject, reply, data[split:end], data[body:split]))
        # There is no await here: only the callback itself can have raised a CancelledError.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self._events.on_callback_failed(subject, error)
        return end + 2

    def _control(self, line: bytes) -> None:
        kind = line[:4].upper()
        if kind == b"PING":
            self._events.on_ping()
        elif kind == b"PONG":
            self._events.on_pong()
        elif kind == b"INFO":
            self._events.on_info(line[4:].strip())
        elif kind == b"-ERR":
            self._events.on_error_line(line[4:].strip().strip(b"'").decode("utf-8", "replace"))
        elif not kind.startswith(b"+OK"):
            raise Corrupt("broker_unreachable", f"the broker sent {line[:20]!a}")
