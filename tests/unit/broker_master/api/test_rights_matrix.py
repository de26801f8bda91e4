"""Group limits on every operation: role, limited or not, and a target inside, outside or unknown.

The operations are those of the table of verbs: each has a row, by the shape of its request or by a
line here.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from broker_client.runtime.identity import new_identity
from broker_master.api.operations import Direct, Operation
from broker_master.ca.mesh import Mesh
from broker_master.core.rights import check_right
from schemas.faults import MeshError
from schemas.messages import api, fanouts
from schemas.messages.registry import ClientEntry
from schemas.messages.renewal import RenewalRequest
from schemas.permissions import CLIENT_ROLES, may_call
from schemas.verbs import AGENT_MOVE, AGENT_PAUSE, AGENT_SET, COMMAND_DECIDE, VERBS, AnyVerb
from tests.unit.broker_master.table import GROUPS, Table, call, named

INSIDE, OUTSIDE, NOTHING = (*GROUPS, "none")
UNKNOWN = frozenset({"forbidden"}) | {
    f"{what}_unknown" for what in ("group", "agent", "client", "connection", "command", "fanout")
}
Make = Callable[[str], msgspec.Struct]


class Row(NamedTuple):
    """How an operation is asked about a group.

    kind: `target`, refused outside; `filter`, which leaves out what is outside; `self`, which has
    no target but the caller; `mesh`, which is for nobody who is limited.
    """

    kind: str
    make: Make


# How what belongs to a group is called, by noun; see `Table`.
NAMES = {"agent": "{}-1", "client": "{}-client", "connection": "{}-way", "group": "{}"}
IDS = {"command": "{}-open", "deadletter": "{}-dead", "fanout": "{}-fan"}


def row_of(verb: AnyVerb, **fields: Any) -> Row:  # noqa: ANN401
    """One that names a thing is refused outside; one that names none leaves out what is outside."""
    known = {field.name: field.required for field in msgspec.structs.fields(verb.request)}
    quick = {"timeout_s": 0} if "timeout_s" in known else {}
    if not any(known.values()):
        return Row("filter", lambda _group: verb.request(**quick, **fields))
    key, names = ("name", NAMES) if "name" in known else ("id", IDS)
    named_ = {key: names[verb.noun]}

    def make(group: str) -> msgspec.Struct:
        given = {name: form.format(group) for name, form in named_.items()}
        return verb.request(**given, **quick, **fields)

    return Row("target", make)


def new_client(group: str) -> api.ClientCreate:
    keys = new_identity("fresh")
    return api.ClientCreate(
        name="fresh",
        role="viewer",
        groups=[group],
        csr_pem=keys.csr_pem.decode(),
        user_nkey=keys.user,
    )


def renewal(_group: str) -> RenewalRequest:
    return RenewalRequest(
        csr_pem="", user_nkey="", cert_pem="", signature=bytes(8), user_signature=bytes(8)
    )


def many(group: str) -> fanouts.FanoutSubmit:
    return fanouts.FanoutSubmit(group=group, command=api.SubmitRequest(action="noop"))


# All whose request does not say by its shape how it is asked about a group.
SPECIAL: dict[str, Row] = {
    "command.submit": Row("target", lambda group: api.SubmitRequest(group=group, action="noop")),
    "command.input": Row("self", lambda _group: api.InputPart(input="in-1", data=b"part")),
    "command.decide": row_of(COMMAND_DECIDE, decision="rerun"),
    "fanout.submit": Row("target", many),
    "agent.create": Row("target", lambda group: api.AgentCreate(name="fresh", group=group)),
    "agent.set": row_of(AGENT_SET, weight=2),
    "agent.pause": row_of(AGENT_PAUSE, for_s=60),
    "agent.move": row_of(AGENT_MOVE, group=INSIDE),
    "agent.forget": Row(
        "target", lambda group: api.AgentForget(silent_for_s=1e6, group=group, apply=True)
    ),
    "connection.create": Row(
        "target", lambda group: api.ConnectionCreate(name="fresh", kind="sqlite", group=group)
    ),
    "client.create": Row("target", new_client),
    "client.renew": Row("self", renewal),
    "certificate.trust": Row("self", lambda _group: api.TrustQuery(known="", serial="")),
    "ca.rotate": Row("mesh", lambda _group: api.CaRotate(step="prepare", key="viewer")),
}
ROWS = {name: SPECIAL.get(name) or row_of(verb) for name, verb in VERBS.items()}


@pytest.fixture(scope="module")
def rotating(mesh: Mesh) -> Mesh:
    """Its authority is being replaced, so that agents and clients are waited for."""
    mesh.authority.rotate("prepare", now=time.time())
    return mesh


@pytest.fixture
async def tables(rotating: Mesh) -> AsyncIterator[Callable[[], Table]]:
    made: list[Table] = []

    def make() -> Table:
        made.append(Table(rotating))
        return made[-1]

    yield make
    for table in made:
        await table.aclose()


async def outcome(
    operation: Operation | Direct, caller: ClientEntry, request: msgspec.Struct
) -> Any:  # noqa: ANN401
    """The answer, or the fault."""
    try:
        check_right(caller, operation.verb.noun, operation.verb.verb)
        return await call(operation, caller, request)
    except MeshError as error:
        return error


def code(found: object) -> str:
    return found.code if isinstance(found, MeshError) else ""


async def test_sec_s31_every_operation_has_a_row(tables: Callable[[], Table]) -> None:
    operations = await tables().open()
    assert {each.verb.name for each in operations} == set(ROWS)
    assert set(SPECIAL) <= set(VERBS)


@pytest.mark.parametrize("verb", ROWS)
async def test_sec_s31_group_limits_hold(verb: str, tables: Callable[[], Table]) -> None:
    row, (noun, _, what) = ROWS[verb], verb.partition(".")
    for role in CLIENT_ROLES:
        for groups in ((), (INSIDE,)):
            for target in (INSIDE, OUTSIDE, NOTHING):
                table = tables()
                operation = (await table.open()).find(noun, what)
                caller = ClientEntry(name="me", role=role, created_at=1.0, groups=[*groups])
                table.plane.registry.clients["me"] = caller
                found = await outcome(operation, caller, row.make(target))
                where = (role, groups, target, found)
                if not may_call(role, noun, what):
                    assert code(found) == "forbidden", where
                elif not groups:
                    assert code(found) != "forbidden", where
                else:
                    check_limited(row.kind, target, found, where)


def check_limited(kind: str, target: str, found: object, where: object) -> None:
    if kind == "mesh":
        assert code(found) == "forbidden", where
    elif kind == "self":
        assert code(found) != "forbidden", where
    elif kind == "filter":
        assert not isinstance(found, MeshError), where
        text = repr(found)
        assert not [name for name in named(OUTSIDE) if name in text], where
        assert f"'{OUTSIDE}'" not in text, where
    elif target == INSIDE:
        assert code(found) != "forbidden", where
    elif target == OUTSIDE:
        assert code(found) == "forbidden", where
    else:
        assert code(found) in UNKNOWN, where


@pytest.mark.parametrize("verb", [name for name, row in ROWS.items() if row.kind == "filter"])
async def test_sec_s31_lists_show_the_rest_to_who_may_see_it(
    verb: str, tables: Callable[[], Table]
) -> None:
    """Entries that limited clients do not see exist: an empty list would prove nothing."""
    noun, _, what = verb.partition(".")
    caller = ClientEntry(name="me", role="admin", created_at=1.0)
    table = tables()
    operation = (await table.open()).find(noun, what)
    table.plane.registry.clients["me"] = caller
    unlimited = await outcome(operation, caller, ROWS[verb].make(OUTSIDE))
    limited = msgspec.structs.replace(caller, groups=[INSIDE])
    assert repr(unlimited) != repr(await outcome(operation, limited, ROWS[verb].make(OUTSIDE)))


async def test_sec_s31_limited_admin_manages_no_client_that_is_wider(
    tables: Callable[[], Table],
) -> None:
    table = tables()
    operations = await table.open()
    caller = ClientEntry(name="me", role="admin", created_at=1.0, groups=[INSIDE])
    both = ClientEntry(name="both", role="viewer", created_at=1.0, groups=[*GROUPS])
    table.plane.registry.clients.update(me=caller, both=both)
    revoke = operations.find("client", "revoke")
    for name in ("ops", "both", "db-client", "me"):
        found = await outcome(revoke, caller, api.NameQuery(name=name))
        assert code(found) == "forbidden", name
        assert not table.plane.registry.clients[name].revoked
    assert code(await outcome(revoke, caller, api.NameQuery(name="web-client"))) == ""
    create = operations.find("client", "create")
    for groups in ([], [*GROUPS]):
        wider = msgspec.structs.replace(new_client(INSIDE), groups=groups)
        assert code(await outcome(create, caller, wider)) == "forbidden"
