import copy

import pytest

from schemas.faults import Misused
from schemas.states import AGENT_ENDS, MOVES, TERMINAL, State, check_move

OPEN = [state for state in State if state not in TERMINAL]


def reachable(start: State) -> set[State]:
    found, waiting = {start}, [start]
    while waiting:
        fresh = MOVES.get(waiting.pop(), frozenset()) - found
        found |= fresh
        waiting += fresh
    return found


def test_table_speaks_of_every_open_state() -> None:
    assert set(OPEN) <= set(MOVES)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_terminal_state_has_no_exit_but_lost_which_may_be_amended(state: State) -> None:
    exits = MOVES.get(state, frozenset())
    if state is State.LOST:
        assert exits
        assert exits <= TERMINAL - {State.LOST}
    else:
        assert exits == frozenset()


@pytest.mark.parametrize("state", OPEN)
def test_open_state_is_left_and_reaches_an_end(state: State) -> None:
    assert MOVES[state] - {state}
    assert reachable(state) & TERMINAL


@pytest.mark.parametrize("state", State)
def test_every_state_is_reached_from_queued(state: State) -> None:
    assert state in reachable(State.QUEUED)


def test_no_move_leads_back_to_itself_in_the_table() -> None:
    assert [state for state, exits in MOVES.items() if state in exits] == []


@pytest.mark.parametrize("old", State)
def test_check_move_follows_the_table_and_changes_nothing(old: State) -> None:
    before = copy.deepcopy(MOVES)
    for new in State:
        if new is old or new in MOVES.get(old, frozenset()):
            assert check_move(old, new) is new
        else:
            with pytest.raises(Misused, match=f"no move from {old} to {new}"):
                check_move(old, new)
    assert before == MOVES


def test_an_agent_ends_attempts_only_in_terminal_states() -> None:
    assert AGENT_ENDS <= TERMINAL
    assert State.EXPIRED not in AGENT_ENDS
    assert State.UNDELIVERABLE not in AGENT_ENDS


@pytest.mark.parametrize("end", sorted(AGENT_ENDS))
def test_reported_states_are_moves_from_every_state_in_which_they_may_arrive(
    end: State,
) -> None:
    """A rejection answers a request; all else may come whenever the agent had the attempt."""
    heard_in = {State.SENT, State.ACCEPTED, State.RUNNING, State.STOPPING, State.UNKNOWN}
    if end is State.REJECTED:
        heard_in = {State.SENT, State.UNKNOWN}
    assert [state for state in heard_in if end not in MOVES[state]] == []
