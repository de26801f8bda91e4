"""Connections on a stage: entries in the registry, and profiles as agents tell them."""

from typing import Any

import msgspec

from broker_master.core.ways import way_of
from schemas import codec
from schemas.faults import MeshError
from schemas.messages.api import SubmitAnswer, SubmitRequest
from schemas.messages.liveness import Beat, Echo, Profiles, ProfileStatus
from schemas.messages.registry import ConnectionEntry
from tests.unit.broker_master.stage import Stage

QUERY = msgspec.Raw(msgspec.msgpack.encode({"sql": "select 1"}))
# Actions that an agent of now announces.
ACTIONS = ("noop", "process", "sql.query", "sql.execute", "connection.test")


def connection(stage: Stage, name: str = "erp-db", **fields: Any) -> ConnectionEntry:  # noqa: ANN401  of ConnectionEntry
    """A connection through `web`, as if it had been created."""
    made = {"kind": "postgresql", "group": "web", "created_at": stage.clock.now(), **fields}
    entry = ConnectionEntry(name=name, **made)
    stage.plane.registry.connections[name] = entry
    stage.plane.registry._revisions[f"connection.{name}"] = 1
    stage.plane.dispatcher.ways.put(name, way_of(entry))
    return entry


def profile(name: str = "erp-db", **fields: Any) -> ProfileStatus:  # noqa: ANN401  of ProfileStatus
    return ProfileStatus(name=name, **{"kind": "postgresql", "hash": "9f3c21ab", **fields})


async def tell_profiles(
    stage: Stage, agent: str, *profiles: ProfileStatus, digest: str = "d1", seq: int = 50
) -> list[Echo]:
    """A beat with the digest, and the profiles if the echo asks; returns the echoes."""
    said = Beat(incarnation="i1", seq=seq, slots=8, profiles=digest)
    stage._say(agent, "beat", stage.presence.on_beat, said)
    echoes = [codec.decode(Echo, data) for data in stage.sent(agent, "echo")]
    if echoes[-1].profiles:
        message = Profiles(incarnation="i1", digest=digest, items=[*profiles])
        stage._say(agent, "profiles", stage.work.profiles.on_profiles, message)
    await stage.rest()
    return echoes


async def ask(stage: Stage, *, client: str = "ops", **fields: Any) -> SubmitAnswer | MeshError:  # noqa: ANN401  of SubmitRequest
    """The answer of `command.submit`; a refusal is returned."""
    made = {"connection": "erp-db", "action": "sql.query", "args": QUERY, **fields}
    answers: list[SubmitAnswer | MeshError] = []
    caller = stage.plane.registry.clients[client]
    try:
        stage.intake.submit(caller, SubmitRequest(**made), answers.append, "nats")
    except MeshError as error:
        return error
    await stage.rest()
    return answers[0]


async def taken(stage: Stage, **fields: Any) -> SubmitAnswer:  # noqa: ANN401  of SubmitRequest
    answer = await ask(stage, **fields)
    assert isinstance(answer, SubmitAnswer), answer
    return answer


async def refused(stage: Stage, **fields: Any) -> MeshError:  # noqa: ANN401  of SubmitRequest
    answer = await ask(stage, **fields)
    assert isinstance(answer, MeshError), answer
    assert not stage.plane.book.get(str(fields.get("id", "none"))), "nothing is stored"
    return answer
