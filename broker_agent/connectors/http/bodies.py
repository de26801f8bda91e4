"""The body of an answer: written to the output as it comes, parsed if it is small JSON."""

import zlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from broker_agent.connectors.api import CallFailed, Out
from schemas.texts import cut_text

# Bytes of a JSON body that the result holds.
JSON_BYTES: Final = 16 * 1024
# A decompressed body may be so many times as large as what was sent, beyond a first part.
RATIO: Final = 20
_FREE_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024
# Headers of the result: number, and characters of each.
_HEADERS: Final = 32
_HEADER_LEN: Final = 200
# They authenticate whoever has them.
_SECRET_HEADERS: Final = frozenset({"set-cookie", "www-authenticate", "proxy-authenticate"})


class Body:
    """Receives the chunks of a body. size: bytes written. json: the parsed body, or None."""

    def __init__(self, headers: Mapping[str, str], out: Out) -> None:
        self._out = out
        self._taken = 0
        self.size = 0
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._head = bytearray() if kind == "application/json" or kind.endswith("+json") else None
        self._inflate = _inflater(headers.get("Content-Encoding", ""))

    def take(self, chunk: bytes) -> None:
        """Write a chunk; raises CallFailed for a body that grows out of proportion."""
        self._taken += len(chunk)
        if self._inflate is None:
            self._write(chunk)
            return
        try:
            while chunk:
                self._write(self._inflate.decompress(chunk, _PIECE_BYTES))
                chunk = self._inflate.unconsumed_tail
        except zlib.error as error:
            raise CallFailed("target_refused", f"the body: {error}", effect="done") from error

    def finish(self) -> None:
        """Check that a compressed body has come whole."""
        if self._inflate is not None and self._taken and not self._inflate.eof:
            raise CallFailed("target_lost", "the compressed body was cut off", effect="unknown")

    @property
    def json(self) -> Any:  # noqa: ANN401  (whatever the server answers)
        if self._head is None:
            return None
        try:
            return msgspec.json.decode(bytes(self._head))
        except msgspec.MsgspecError:
            return None

    def _write(self, data: bytes) -> None:
        self.size += len(data)
        if self._inflate is not None and self.size > RATIO * self._taken + _FREE_BYTES:
            raise CallFailed(
                "result_too_large", f"the body grows more than {RATIO} times", effect="done"
            )
        if self._head is not None:
            self._head += data
            if len(self._head) > JSON_BYTES:
                self._head = None
        if data:
            self._out.write(data)


def _inflater(encoding: str) -> Any:  # noqa: ANN401  (zlib names no type)
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        case "deflate":
            return zlib.decompressobj()
        case other:
            raise CallFailed(
                "target_refused", f"the body is encoded as {other[:40]!r}", effect="done"
            )


def result_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of an answer in lower case, without those that hold secrets."""
    kept = [(name.lower(), value) for name, value in headers.items()]
    plain = [each for each in kept if each[0] not in _SECRET_HEADERS][:_HEADERS]
    return {cut_text(name, _HEADER_LEN): cut_text(value, _HEADER_LEN) for name, value in plain}
