import re
from typing import get_args

import pytest

from schemas.codec import decode, encode
from schemas.faults import (
    FAULTS,
    Corrupt,
    Effect,
    Expired,
    FaultBody,
    MeshError,
    Misused,
    Refused,
    Retry,
    Unreachable,
)

every_code = pytest.mark.parametrize("code", FAULTS)


@every_code
def test_entry_is_whole(code: str) -> None:
    kind = FAULTS[code]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert 400 <= kind.number <= 599
    assert kind.retry in get_args(Retry)
    assert 1 <= kind.exit_code <= 125
    assert kind.advice
    assert kind.advice.isascii()
    assert "\n" not in kind.advice
    assert not kind.advice.endswith(".")


@every_code
def test_fault_comes_back_from_the_wire_as_it_was_sent(code: str) -> None:
    sent = Refused(code, "which and what")
    received = Refused.from_body(decode(FaultBody, encode(sent.body())))
    assert (received.code, received.message) == (code, "which and what")
    assert received.kind is FAULTS[code]
    assert received.retry == sent.retry


def test_code_of_a_newer_mesh_is_kept_and_treated_as_internal() -> None:
    received = Refused.from_body(FaultBody(code="of_tomorrow", message="m"))
    assert received.code == "of_tomorrow"
    assert received.kind is FAULTS["internal"]


@pytest.mark.parametrize(
    ("family", "effect"),
    [
        (Refused, "none"),
        (Unreachable, "unknown"),
        (Expired, "none"),
        (Corrupt, "none"),
        (Misused, "none"),
    ],
)
def test_family_says_whether_it_may_have_happened(family: type[MeshError], effect: Effect) -> None:
    assert family("internal", "m").effect == effect
    assert family("internal", "m", effect="done").effect == "done"
    assert family("internal", "m").effect == effect


def test_advice_of_whoever_knows_the_cause_goes_before_that_of_the_code_and_travels() -> None:
    plain = Refused("no_answer", "nothing")
    assert plain.advice == FAULTS["no_answer"].advice
    told = Refused("no_answer", "no master is listening", advice="start the master")
    assert told.body().advice == "start the master"
    assert Refused.from_body(told.body()).advice == "start the master"
    older = FaultBody(code="no_answer", message="nothing")
    assert Refused.from_body(older).advice == FAULTS["no_answer"].advice
