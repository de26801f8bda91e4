"""Answers to agents, and to those who will be: a message, or a fault with its headers."""

import msgspec

from broker_master.plane import Plane
from schemas import codec
from schemas.answers import fault_answer
from schemas.faults import MeshError


def send_answer(plane: Plane, reply: str, answer: msgspec.Struct | MeshError, what: str) -> None:
    """Send it to a subject that was checked to be the asker's own. Lost ones are asked for again.

    what: the kind of question, for the count of answers that could not be sent.
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
