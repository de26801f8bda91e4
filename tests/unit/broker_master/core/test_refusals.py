"""Agents that will refuse a command again: by the code of their refusal, whatever its words."""

from typing import Any

import pytest

from broker_master.core import ends
from broker_master.core.commands import Command
from broker_master.core.effects import Settle
from broker_master.core.refusals import refusers
from schemas.messages.facts import Outcome
from schemas.states import State
from tests.fake_clock import EPOCH
from tests.unit.broker_master.deeds import accepted, assigned, command_of, ended


def refused(code: str, message: str) -> Outcome:
    """The outcome that a master stores once web-1 has refused."""
    command = command_of(accepted(), assigned())
    (attempt,) = command.attempts
    attempt.sent = 1
    effects = ends.on_rejected(command, attempt, code, message, lambda *_: True, EPOCH + 3)
    (settle,) = [effect for effect in effects if isinstance(effect, Settle)]
    return settle.outcome


def after(**fields: Any) -> Command:  # noqa: ANN401  of Outcome
    return command_of(accepted(), assigned(), ended(state=State.REJECTED, final=False, **fields))


@pytest.mark.parametrize(
    ("code", "are_for_good"),
    [("action_unknown", True), ("agent_full", False), ("epoch_stale", False), ("of_later", True)],
)
def test_code_says_whether_an_agent_refuses_for_good(code: str, are_for_good: bool) -> None:
    outcome = refused(code, "agent_full: are words")
    assert outcome.code == code
    found = refusers(after(code=outcome.code, reason=outcome.reason))
    assert found == ({"web-1"} if are_for_good else set())


def test_words_of_a_refusal_are_not_read_where_there_is_a_code() -> None:
    assert refusers(after(code="action_unknown", reason="agent_full: no slot")) == {"web-1"}


def test_fact_of_the_first_release_has_its_code_in_the_reason() -> None:
    assert refusers(after(reason="agent_full: no slot")) == set()
    assert refusers(after(reason="action_unknown: no action")) == {"web-1"}


def test_agent_that_was_shut_down_may_take_the_command_later() -> None:
    command = command_of(accepted(), assigned())
    (settle,) = ends.on_left(command, command.attempts[0], EPOCH + 3)
    assert settle.outcome.code == "agent_draining"
    assert refusers(after(code=settle.outcome.code, reason=settle.outcome.reason)) == set()
