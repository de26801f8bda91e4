"""Group limits on every operation: role, limited or not, and a target inside, outside or unknown.

The operations are those of the table itself: one without a row here fails.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from broker_client.runtime.identity import new_identity
from broker_master.api.operations import Direct, Operation
from broker_master.ca.mesh import Mesh, init_mesh
from broker_master.core.rights import check_right
from schemas.faults import MeshError
from schemas.messages import api, fanouts
from schemas.messages.registry import ClientEntry
from schemas.messages.renewal import RenewalRequest
from schemas.permissions import CLIENT_ROLES, may_call
from schemas.verbs import VERBS
from tests.unit.broker_master.table import GROUPS, Table, call, named

INSIDE, OUTSIDE, NOTHING = (*GROUPS, "none")
UNKNOWN = frozenset({"forbidden"}) | {
    f"{what}_unknown" for what in ("group", "agent", "client", "command", "fanout")
}
Make = Callable[[str], msgspec.Struct]


class Row(NamedTuple):
    """How an operation is asked about a group.

    kind: `target`, refused outside; `filter`, which leaves out what is outside; `self`, which has
    no target but the caller; `mesh`, which is for nobody who is limited.
    """

    kind: str
    make: Make


def on_agent(make: Callable[..., msgspec.Struct] = api.NameQuery, **fields: Any) -> Row:  # noqa: ANN401
    return Row("target", lambda group: make(name=f"{group}-1", **fields))


def on_group(make: Callable[..., msgspec.Struct] = api.NameQuery) -> Row:
    return Row("target", lambda group: make(name=group))


def on_id(what: str, make: Callable[..., msgspec.Struct], **fields: Any) -> Row:  # noqa: ANN401
    return Row("target", lambda group: make(id=f"{group}-{what}", **fields))


def listing(make: Callable[..., msgspec.Struct]) -> Row:
    return Row("filter", lambda _group: make())


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


ROWS: dict[str, Row] = {
    "command.submit": Row("target", lambda group: api.SubmitRequest(group=group, action="noop")),
    "command.show": on_id("open", api.CommandQuery),
    "command.list": listing(api.CommandList),
    "command.wait": on_id("open", api.CommandQuery, timeout_s=0),
    "command.cancel": on_id("open", api.CommandQuery),
    "command.logs": on_id("open", api.LogsRequest),
    "command.decide": on_id("open", api.DecideRequest, decision="rerun"),
    "deadletter.list": listing(api.CommandList),
    "deadletter.show": on_id("dead", api.CommandQuery),
    "deadletter.retry": on_id("dead", api.RetryRequest),
    "fanout.submit": Row("target", many),
    "fanout.show": on_id("fan", fanouts.FanoutQuery),
    "fanout.list": listing(fanouts.FanoutList),
    "fanout.wait": on_id("fan", fanouts.FanoutQuery, timeout_s=0),
    "fanout.cancel": on_id("fan", fanouts.FanoutQuery),
    "agent.create": Row("target", lambda group: api.AgentCreate(name="fresh", group=group)),
    "agent.token": on_agent(api.AgentCreate),
    "agent.set": on_agent(api.AgentSet, weight=2),
    "agent.show": on_agent(),
    "agent.list": listing(api.AgentList),
    "agent.enable": on_agent(),
    "agent.disable": on_agent(api.AgentDisable),
    "agent.pause": on_agent(api.AgentPause, for_s=60),
    "agent.move": on_agent(api.AgentMove, group=INSIDE),
    "agent.forget": Row(
        "target", lambda group: api.AgentForget(silent_for_s=1e6, group=group, apply=True)
    ),
    "agent.revoke": on_agent(),
    "agent.delete": on_agent(),
    "agent.rotate": on_agent(),
    "group.create": on_group(api.GroupCreate),
    "group.set": on_group(api.GroupSet),
    "group.show": on_group(),
    "group.list": listing(api.GroupList),
    "group.delete": on_group(),
    "group.rotate": on_group(),
    "client.create": Row("target", new_client),
    "client.list": listing(api.ClientList),
    "client.revoke": Row("target", lambda group: api.NameQuery(name=f"{group}-client")),
    "client.renew": Row("self", renewal),
    "certificate.list": listing(api.CertificateList),
    "certificate.trust": Row("self", lambda _group: api.TrustQuery(known="", serial="")),
    "ca.show": listing(api.NoQuery),
    "ca.rotate": Row("mesh", lambda _group: api.CaRotate(step="prepare", key="viewer")),
    "mesh.status": listing(api.NoQuery),
    "audit.list": listing(api.AuditQuery),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    """Its authority is being replaced, so that somebody is waited for."""
    made = init_mesh(tmp_path_factory.mktemp("mesh") / "state", now=time.time)
    made.authority.rotate("prepare", now=time.time())
    return made


@pytest.fixture
async def tables(mesh: Mesh) -> AsyncIterator[Callable[[], Table]]:
    made: list[Table] = []

    def make() -> Table:
        made.append(Table(mesh))
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
    assert {each.verb.name for each in operations} == set(ROWS) == set(VERBS)


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
    """What the limited do not see is there: a list that shows nobody anything proves nothing."""
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
