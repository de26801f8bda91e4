"""Each row of the table of statuses: its condition, its reason, its advice, and its place."""

from typing import Any, Final, NamedTuple

import msgspec
import pytest

from broker_master.core.liveness import Presence, Silence
from broker_master.core.standing import (
    LACK_WORDS,
    TABLE,
    Cause,
    Standing,
    classify,
    current_certificate,
)
from schemas.messages.liveness import Details
from schemas.messages.registry import AdminTerm, AgentEntry, CertificateEntry, TokenEntry, Traits
from schemas.moments import rfc3339
from schemas.states import Admin, AgentStatus, Lack, Liveness
from tests.fake_clock import EPOCH

DAY_S: Final = 86_400
AT: Final = EPOCH + 1
LEFT_S: Final = 40.0
CERTIFICATE: Final = CertificateEntry(
    serial="aa", not_after=EPOCH + 90 * DAY_S, user_nkey="UA", issued_at=EPOCH
)
RETIRED: Final = msgspec.structs.replace(CERTIFICATE, retired_at=EPOCH)
ENTRY: Final = AgentEntry(
    name="web-1", group="web", created_at=EPOCH, certificates=[CERTIFICATE], connected=True
)
OPEN: Final = TokenEntry(hash="h", expires_at=EPOCH + 3600)
OVER: Final = TokenEntry(hash="h", expires_at=AT)
USED: Final = msgspec.structs.replace(OPEN, used_key="UA")
TOKEN: Final = "mesh agent token web-1"
AGAIN: Final = f"set it up again: {TOKEN}"
GIVEN_UP: Final = f"its tasks are given up at {rfc3339(AT + LEFT_S)} unless it returns"
ENABLE: Final = "mesh agent enable web-1"


def presence(liveness: Liveness = Liveness.LIVE, **fields: Any) -> Presence:  # noqa: ANN401
    is_live = liveness is Liveness.LIVE
    made = {"agent": "web-1", "group": "web", "liveness": liveness, "reconciled": is_live}
    return Presence(**{**made, **fields})


def never() -> Presence:
    return presence(Liveness.NEVER)


def silent(silence: Silence = Silence.NO_BEAT, **fields: Any) -> Presence:  # noqa: ANN401
    return presence(Liveness.SILENT, silence=silence, **{"silent_for_s": 10.0, **fields})


def changed(**fields: Any) -> AgentEntry:  # noqa: ANN401
    return msgspec.structs.replace(ENTRY, **fields)


def fresh(**fields: Any) -> AgentEntry:  # noqa: ANN401
    return changed(**{"connected": False, "certificates": [], **fields})


def stand(entry: AgentEntry, seen: Presence | None, left: int = 0, at: float = AT) -> Standing:
    return classify(entry, seen, at, tasks_left=left, given_up_in_s=LEFT_S)


class Case(NamedTuple):
    """Input of `classify`, and its result: cause, reason, advice, word for lists."""

    entry: AgentEntry
    seen: Presence | None
    cause: Cause
    reason: str
    then: str
    brief: str = ""
    left: int = 0


DUPLICATE = presence(
    frozen=True,
    is_contested=True,
    older=["i1"],
    hosts={"i1": "h1"},
    details=Details(host="h2"),
)
NEW_DISK = AdminTerm(note="new disk")
PAUSE = AdminTerm(until=EPOCH + 600)

AWAITING = [
    Case(fresh(), never(), Cause.NO_TOKEN, "no activation token is open", TOKEN),
    Case(fresh(), None, Cause.NO_TOKEN, "no activation token is open", TOKEN),
    Case(fresh(token=USED), None, Cause.NO_TOKEN, "no activation token is open", TOKEN),
    Case(fresh(token=OVER), None, Cause.TOKEN_EXPIRED, "its activation token has expired", TOKEN),
    Case(
        fresh(token=OPEN),
        None,
        Cause.TOKEN_OPEN,
        f"its activation token is open until {rfc3339(EPOCH + 3600)}",
        "use it: broker-agent setup",
    ),
    Case(
        fresh(token=OPEN, certificates=[RETIRED], admin=Admin.DISABLED, admin_by="ops"),
        never(),
        Cause.TOKEN_OPEN,
        f"its activation token is open until {rfc3339(EPOCH + 3600)}; disabled by ops",
        "use it: broker-agent setup",
    ),
    Case(
        fresh(token=OPEN, certificates=[CERTIFICATE]),
        never(),
        Cause.NOT_STARTED,
        "enrolled, not connected yet",
        "start it: broker-agent run",
    ),
    Case(fresh(admin=Admin.REVOKED, token=OPEN), never(), Cause.REVOKED, "revoked", AGAIN),
    Case(
        fresh(admin=Admin.DELETED, admin_by="ops", certificates=[CERTIFICATE]),
        never(),
        Cause.DELETED,
        "deleted by ops, 0 tasks of it may still run",
        f"gone once that is over, not before {rfc3339(AT + LEFT_S)}",
    ),
]
DISABLED = [
    Case(
        changed(admin=admin, admin_by="ops", admin_term=NEW_DISK),
        seen,
        Cause.DISABLED,
        f"disabled by ops (new disk), {said}",
        ENABLE,
        left=left,
    )
    for admin in (Admin.DISABLED, Admin.DRAINING)
    for seen, left, said in (
        (presence(), 0, "live"),
        (silent(), 0, "silent"),
        (presence(), 1, "1 task left"),
        (silent(), 2, "2 tasks left"),
    )
] + [
    Case(changed(admin=Admin.DISABLED), presence(), Cause.DISABLED, "disabled, live", ENABLE),
    Case(
        changed(admin=Admin.PAUSED, admin_by="ops", admin_term=PAUSE),
        presence(),
        Cause.PAUSED,
        "paused by ops, 3 tasks left",
        f"enabled at {rfc3339(EPOCH + 600)}, or before: {ENABLE}",
        left=3,
    ),
    Case(
        changed(admin=Admin.DELETED, admin_by="ops"),
        silent(),
        Cause.DELETED,
        "deleted by ops, 1 task of it may still run",
        f"gone once that is over, not before {rfc3339(AT + LEFT_S)}",
        left=1,
    ),
    Case(
        changed(admin=Admin.REVOKED, admin_by="ops"),
        silent(),
        Cause.REVOKED,
        "revoked by ops",
        AGAIN,
    ),
]
NO_RESPONSE = [
    Case(
        changed(certificates=[msgspec.structs.replace(CERTIFICATE, not_after=AT)]),
        presence(),
        Cause.CERTIFICATE_EXPIRED,
        f"certificate expired at {rfc3339(AT)}",
        AGAIN,
    ),
    Case(
        ENTRY,
        silent(obeys=7),
        Cause.OBEYS_ANOTHER,
        "it refuses this master: it has obeyed a newer one, of epoch 7",
        "end this master if another is in charge; if its state was put back:"
        " broker-master restore --state-dir D --above 7",
    ),
    Case(
        ENTRY,
        DUPLICATE,
        Cause.DUPLICATE,
        "duplicate identity: it lives on h2 and h1, in turn",
        "stop one of them; or mesh agent revoke web-1, then set one up again",
    ),
    Case(
        ENTRY,
        presence(frozen=True),
        Cause.DUPLICATE,
        "duplicate identity: it lives on an unknown host and another, in turn",
        "stop one of them; or mesh agent revoke web-1, then set one up again",
    ),
    Case(
        ENTRY,
        presence(stuck=True),
        Cause.STUCK,
        "not taking work: it beats, but answers no request to run anything",
        "active again as soon as it answers one; if it does not, restart it",
    ),
    Case(
        ENTRY,
        presence(deaf=True),
        Cause.DEAF,
        "cannot hear the master",
        "active again after the handshake",
    ),
    Case(
        ENTRY,
        presence(reconciled=False),
        Cause.HANDSHAKE,
        "the handshake is not complete",
        "active again after the handshake",
    ),
    Case(
        changed(certificates=[RETIRED], token=OPEN),
        silent(),
        Cause.READMITTED,
        "revoked, and not set up again yet",
        "use its token: broker-agent setup",
    ),
    *(
        Case(
            changed(certificates=[RETIRED], token=token),
            silent(),
            Cause.READMITTED,
            "revoked, and not set up again yet",
            AGAIN,
        )
        for token in (OVER, USED, None)
    ),
    Case(
        ENTRY,
        silent(Silence.SHUT_DOWN),
        Cause.SHUT_DOWN,
        "shut down",
        "active again once it is started",
        left=1,
    ),
    Case(
        ENTRY,
        silent(Silence.LOST, silent_for_s=50.0, given_up=True),
        Cause.LOST,
        "lost: no beat for 50 s",
        "active again once it is started",
        left=1,
    ),
    Case(
        ENTRY,
        silent(Silence.UNHEARD),
        Cause.UNHEARD,
        "not heard since the master started",
        GIVEN_UP,
        left=1,
    ),
    Case(
        ENTRY,
        silent(Silence.UNHEARD),
        Cause.UNHEARD,
        "not heard since the master started",
        "active again once it returns",
    ),
    Case(ENTRY, silent(), Cause.NO_BEAT, "no beat for 10 s", GIVEN_UP, left=1),
    Case(ENTRY, silent(), Cause.NO_BEAT, "no beat for 10 s", "active again once it returns"),
]
ROOM_AGAIN = "takes work again as soon as there is room; what runs goes on"
NEXT_COMMAND = "takes the next command when a task ends"
ACTIVE = [
    Case(ENTRY, presence(), Cause.READY, "beats arrive and are answered", ""),
    Case(ENTRY, presence(slots=4), Cause.READY, "beats arrive and are answered", "", left=3),
    Case(ENTRY, presence(), Cause.READY, "beats arrive and are answered", "", left=3),
    Case(ENTRY, presence(slots=4), Cause.BUSY, "4 of 4 slots taken", NEXT_COMMAND, left=4),
    Case(ENTRY, presence(slots=4), Cause.BUSY, "4 of 4 slots taken", NEXT_COMMAND, left=5),
    Case(
        changed(traits=Traits(limit=2)),
        presence(slots=4),
        Cause.BUSY,
        "2 of 2 slots taken",
        NEXT_COMMAND,
        left=2,
    ),
    Case(
        changed(traits=Traits(limit=8)),
        presence(slots=4),
        Cause.BUSY,
        "4 of 4 slots taken",
        NEXT_COMMAND,
        left=4,
    ),
    *(
        Case(
            ENTRY,
            presence(is_closed=True),
            Cause.DISCONNECTED,
            f"its connection has ended: takes no new work{said}",
            "takes work again once it is heard; no_response if it stays silent",
            brief="not connected",
            left=left,
        )
        for left, said in ((0, ""), (2, ", 2 tasks left"))
    ),
    Case(
        ENTRY,
        presence(reconciled=False, resumes=True),
        Cause.RESUMING,
        "its handshake is being repeated: takes no new work",
        "takes work again after the handshake; no_response if that does not end",
        brief="in its handshake",
    ),
    *(
        Case(
            ENTRY,
            presence(slots=4, lacks={lack: "its own words"}),
            Cause.NO_ROOM,
            "no room, takes no new work: its own words",
            ROOM_AGAIN,
            brief=LACK_WORDS[lack],
        )
        for lack in Lack
    ),
    Case(
        ENTRY,
        presence(lacks={Lack.DISK: "2 % are free", Lack.FDS: "3 are left"}),
        Cause.NO_ROOM,
        "no room, takes no new work: 2 % are free; 3 are left",
        ROOM_AGAIN,
        brief="disk low",
    ),
    Case(
        changed(moving_to="db"),
        presence(),
        Cause.MOVING,
        "takes no new work, 2 tasks left",
        "moves to group db once none is left",
        brief="moving",
        left=2,
    ),
    Case(
        ENTRY,
        presence(draining=True),
        Cause.STOPPING,
        "stopping: takes no new work",
        "ends by itself",
        brief="stopping",
    ),
    Case(
        ENTRY,
        presence(draining=True),
        Cause.STOPPING,
        "stopping: takes no new work, 1 task left",
        "ends by itself",
        brief="stopping",
        left=1,
    ),
]
CASES = {
    AgentStatus.AWAITING_SETUP: AWAITING,
    AgentStatus.DISABLED: DISABLED,
    AgentStatus.NO_RESPONSE: NO_RESPONSE,
    AgentStatus.ACTIVE: ACTIVE,
}


@pytest.mark.parametrize(
    ("status", "case"),
    [
        pytest.param(status, case, id=f"{status}-{number}-{case.cause}")
        for status, cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)
def test_row_says_status_cause_reason_and_advice(status: AgentStatus, case: Case) -> None:
    standing = stand(case.entry, case.seen, case.left)
    assert (standing.status, standing.cause) == (status, case.cause)
    assert (standing.reason, standing.next) == (case.reason, case.then)
    assert standing.brief == case.brief
    assert standing.takes_work == (case.cause in (Cause.READY, Cause.BUSY))


def test_each_row_of_the_table_and_each_cause_has_its_case() -> None:
    rows = {(status, row.cause) for status, rows in TABLE.items() for row in rows}
    assert rows == {(status, case.cause) for status, cases in CASES.items() for case in cases}
    assert {cause for _, cause in rows} == set(Cause)


STORM = changed(
    admin=Admin.REVOKED,
    certificates=[msgspec.structs.replace(RETIRED, not_after=AT)],
    moving_to="db",
    token=OPEN,
    traits=Traits(limit=1),
)
SILENT_STORM = silent(
    Silence.SHUT_DOWN, obeys=7, frozen=True, stuck=True, deaf=True, draining=True, given_up=True
)
LIVE_STORM = presence(
    obeys=7, frozen=True, stuck=True, deaf=True, reconciled=False, draining=True, slots=4,
    lacks={Lack.DISK: "full"}, is_closed=True,
)  # fmt: skip
Step = tuple[Cause, dict[str, Any], dict[str, Any]]
ENABLED: dict[str, Any] = {"admin": Admin.ENABLED}
HOLDS: dict[str, Any] = {"certificates": [RETIRED]}


def weather(entry: AgentEntry, seen: Presence, steps: list[Step]) -> None:
    """Each step says which of all that holds decides, and then takes it away."""
    for cause, mended, heard in steps:
        assert stand(entry, seen, left=4).cause is cause
        entry = msgspec.structs.replace(entry, **mended)
        seen = msgspec.structs.replace(seen, **heard)


def test_first_row_that_holds_decides_of_a_silent_agent() -> None:
    lost = {"silence": Silence.LOST}
    weather(
        STORM,
        SILENT_STORM,
        [
            (Cause.REVOKED, ENABLED, {}),
            (Cause.CERTIFICATE_EXPIRED, HOLDS, {}),
            (Cause.OBEYS_ANOTHER, {}, {"obeys": 0}),
            (Cause.DUPLICATE, {}, {"frozen": False}),
            (Cause.READMITTED, {"certificates": [CERTIFICATE]}, {}),
            (Cause.SHUT_DOWN, {}, lost),
            (Cause.LOST, {}, {"silence": Silence.UNHEARD}),
            (Cause.UNHEARD, {}, {"silence": Silence.NO_BEAT}),
            (Cause.NO_BEAT, {}, {"silence": Silence.EXPIRED}),
            (Cause.NO_BEAT, {}, {}),
        ],
    )


def test_first_row_that_holds_decides_of_a_live_agent() -> None:
    weather(
        STORM,
        LIVE_STORM,
        [
            (Cause.REVOKED, {"admin": Admin.DELETED}, {}),
            (Cause.DELETED, {"admin": Admin.PAUSED}, {}),
            (Cause.PAUSED, {"admin": Admin.DISABLED}, {}),
            (Cause.DISABLED, ENABLED, {}),
            (Cause.CERTIFICATE_EXPIRED, HOLDS, {}),
            (Cause.DUPLICATE, {}, {"frozen": False}),
            (Cause.STUCK, {}, {"stuck": False}),
            (Cause.DEAF, {}, {"deaf": False}),
            (Cause.HANDSHAKE, {}, {"resumes": True}),
            (Cause.DISCONNECTED, {}, {"is_closed": False}),
            (Cause.RESUMING, {}, {"reconciled": True}),
            (Cause.STOPPING, {}, {"draining": False}),
            (Cause.MOVING, {"moving_to": ""}, {}),
            (Cause.NO_ROOM, {}, {"lacks": {}}),
            (Cause.BUSY, {"traits": Traits(limit=5)}, {}),
            (Cause.BUSY, {}, {"slots": 5}),
            (Cause.READY, {}, {}),
        ],
    )


def test_first_row_that_holds_decides_of_an_agent_that_was_never_heard() -> None:
    weather(
        msgspec.structs.replace(STORM, certificates=[CERTIFICATE]),
        presence(Liveness.NEVER, obeys=7, frozen=True, stuck=True),
        [
            (Cause.REVOKED, {"admin": Admin.DELETED}, {}),
            (Cause.DELETED, {"admin": Admin.PAUSED}, {}),
            (Cause.NOT_STARTED, {"certificates": []}, {}),
            (Cause.TOKEN_OPEN, {"token": OVER}, {}),
            (Cause.TOKEN_EXPIRED, {"token": None}, {}),
            (Cause.NO_TOKEN, {}, {}),
        ],
    )


def test_agent_that_is_live_for_the_first_time_is_active_before_that_is_stored() -> None:
    assert stand(changed(connected=False), presence()).status is AgentStatus.ACTIVE


def test_certificate_holds_until_its_last_moment() -> None:
    at = CERTIFICATE.not_after
    assert stand(ENTRY, presence(), at=at - 1).status is AgentStatus.ACTIVE
    assert stand(ENTRY, presence(), at=at).cause is Cause.CERTIFICATE_EXPIRED
    assert stand(changed(certificates=[]), presence(), at=at).status is AgentStatus.ACTIVE


def test_certificate_in_use_counts_and_the_newest_while_none_is_named() -> None:
    newer = msgspec.structs.replace(CERTIFICATE, serial="bb")
    entry = changed(certificates=[CERTIFICATE, newer])
    assert current_certificate(entry, presence(certificate_serial="aa")) == CERTIFICATE
    assert current_certificate(entry, presence(certificate_serial="unheard of")) == newer
    assert current_certificate(entry, None) == newer
    assert current_certificate(changed(certificates=[]), None) is None


def test_expiry_of_the_certificate_in_use_decides_not_that_of_another() -> None:
    over = msgspec.structs.replace(CERTIFICATE, serial="old", not_after=AT)
    entry = changed(certificates=[over, CERTIFICATE])
    assert stand(entry, presence(certificate_serial="aa")).status is AgentStatus.ACTIVE
    in_use = stand(entry, presence(certificate_serial="old"))
    assert in_use.cause is Cause.CERTIFICATE_EXPIRED


def test_status_that_is_asked_for_alone_knows_of_no_tasks() -> None:
    standing = classify(changed(admin=Admin.DELETED), presence(), AT)
    assert standing.reason == "deleted, 0 tasks of it may still run"
    assert standing.next == f"gone once that is over, not before {rfc3339(AT)}"
