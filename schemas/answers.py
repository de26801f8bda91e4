"""A fault as the answer of a service: its headers and its body, on both sides of the wire."""

from collections.abc import Mapping
from typing import Final

import msgspec

from schemas import codec
from schemas.faults import FaultBody, MeshError, Refused
from schemas.texts import cut_text

ERROR_HEADER: Final = "Nats-Service-Error"
ERROR_CODE_HEADER: Final = "Nats-Service-Error-Code"


def fault_answer(error: MeshError) -> tuple[bytes, dict[str, str]]:
    """Payload and headers that carry `error`; the headers hold one line of printable text."""
    body = error.body()
    body = msgspec.structs.replace(body, message=cut_text(body.message))
    headers = {ERROR_HEADER: error.headline, ERROR_CODE_HEADER: str(error.kind.number)}
    return codec.encode(body), headers


def raise_fault(headers: Mapping[str, str], payload: bytes) -> None:
    """Raise Refused with the fault that an answer carries; return if it carries none."""
    if ERROR_CODE_HEADER in headers:
        raise Refused.from_body(codec.decode(FaultBody, payload))
