"""Answers to agents and to enrolling ones: a message, or a fault with its headers."""

import msgspec

from broker_master.plane import Plane
from schemas import codec
from schemas.answers import fault_answer
from schemas.faults import MeshError


def send_answer(plane: Plane, reply: str, answer: msgspec.Struct | MeshError, what: str) -> None:
    """Send an answer to a subject checked to be the asker's own. A lost answer is requested again.

    what: the kind of request, for the counter of unsent answers.
    """
    headers = None
    if isinstance(answer, MeshError):
        payload, headers = fault_answer(answer)
    else:
        payload = codec.encode(answer)
    try:
        plane.link.publish_nowait(reply, payload, headers=headers)
    except MeshError:
        plane.count("publish_failed", what)
