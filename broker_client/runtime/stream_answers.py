"""Answers of JetStream to requests, and the fault of each refusal."""

from typing import Any, Final

import msgspec

from broker_client.runtime.link import Msg
from schemas.faults import Corrupt, MeshError, Refused, Unreachable

NOT_FOUND: Final = 404
# JetStream error codes. Source: server/errors.json of the NATS server, 2.15.
_CONFLICT: Final = frozenset({10071, 10164})
_FULL: Final = frozenset({10023, 10047, 10077})
_TOO_LARGE: Final = 10054
_NO_STREAM: Final = 10059
_NO_MESSAGE: Final = 10037
# Too few servers of the cluster are up for all replicas of a stream.
_NO_PEERS: Final = 10005
# An incomplete atomic batch, and too many batches in flight.
_PASSING: Final = frozenset({10176, 10210})


class StreamMissing(Refused):
    """The stream does not exist."""


class SequenceConflict(Refused):
    """The last sequence of the subject is not the expected one, as after another write."""

    def __init__(self, subject: str, message: str) -> None:
        super().__init__("id_conflict", f"{subject}: {message}")
        self.subject = subject


class NotFound(Refused):
    """No message is on the subject, or has the sequence."""


class ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The broker's acknowledgement of a stored message, or its refusal."""

    stream: str = ""
    seq: int = 0
    count: int = 0
    duplicate: bool = False
    error: ApiError | None = None


_decode_ack = msgspec.json.Decoder(PubAck).decode
_decode_map = msgspec.json.Decoder(dict[str, Any]).decode


def store_fault(error: ApiError, subject: str) -> MeshError:
    """Return the fault of a refusal by JetStream; in each case nothing was stored."""
    text = f"{subject}: {error.description} ({error.err_code})"
    if error.err_code in _CONFLICT:
        return SequenceConflict(subject, error.description)
    if error.err_code in _FULL:
        return Refused("store_full", text)
    if error.err_code == _NO_STREAM:
        return StreamMissing("store_unavailable", text)
    if error.err_code == _TOO_LARGE:
        return Refused("too_large", text)
    if error.code == 503:
        return Unreachable("store_unavailable", text, effect="none")
    return Refused("store_unavailable", text)


def is_passing(error: ApiError) -> bool:
    """Whether a retry of the same write may succeed soon."""
    return error.err_code in _PASSING or (error.code == 503 and error.err_code not in _FULL)


def decode_ack(msg: Msg) -> PubAck:
    try:
        return _decode_ack(msg.data)
    except msgspec.MsgspecError as error:
        raise Corrupt("store_unavailable", "not an answer of JetStream") from error


def decode_answer(msg: Msg, verb: str) -> dict[str, Any]:
    """Return the answer to a request of the API; raises the fault in it."""
    try:
        found = _decode_map(msg.data)
    except msgspec.MsgspecError as error:
        raise Corrupt("store_unavailable", f"{verb}: not an answer of JetStream") from error
    if "error" in found:
        raise api_fault(msgspec.convert(found["error"], ApiError), verb)
    return found


def api_fault(error: ApiError, verb: str) -> MeshError:
    if error.err_code == _NO_MESSAGE:
        return NotFound("internal", error.description)
    if error.err_code == _NO_PEERS:
        text = f"{verb}: {error.description} ({error.err_code})"
        return Unreachable("store_unavailable", text, effect="none")
    if error.err_code not in _FULL and error.code == 400:
        return Refused("settings_invalid", f"{verb}: {error.description} ({error.err_code})")
    return store_fault(error, verb)


def no_store(subject: str) -> Unreachable:
    """Return the fault of a subject without a stream: none was created, or it has no leader now."""
    return Unreachable("store_unavailable", f"no stream answers on {subject}", effect="none")
