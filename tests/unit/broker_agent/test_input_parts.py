"""Parts of an input that an agent asks for: a window, repeats, and when it gives up."""

from broker_agent.core.input_parts import AGAIN_S, PATIENCE_S, WINDOW, PartWindow


def test_parts_are_asked_for_within_a_window_and_each_once() -> None:
    window = PartWindow(WINDOW + 3, 0.0)
    assert window.due(0.0) == [*range(WINDOW)]
    assert window.due(0.0) == []
    assert window.take(1, 0.5)
    assert not window.take(1, 0.5), "the same part again is no other one"
    assert not window.take(WINDOW + 2, 0.5), "a part that was not asked for"
    assert window.due(0.5) == [WINDOW]


def test_late_parts_are_asked_for_again() -> None:
    window = PartWindow(2, 0.0)
    window.due(0.0)
    window.take(0, 1.0)
    assert window.due(AGAIN_S - 0.1) == []
    assert window.due(AGAIN_S) == [1]
    assert window.due(AGAIN_S + 0.1) == []


def test_input_is_whole_once_every_part_has_come() -> None:
    window = PartWindow(3 * WINDOW, 0.0)
    while not window.is_whole:
        for part in window.due(0.0):
            assert window.take(part, 0.0)
    assert window.due(100.0) == []


def test_silence_for_long_is_hopeless_and_each_part_begins_anew() -> None:
    window = PartWindow(2, 0.0)
    window.due(0.0)
    assert not window.is_hopeless(PATIENCE_S)
    window.take(0, PATIENCE_S)
    assert not window.is_hopeless(2 * PATIENCE_S)
    assert window.is_hopeless(2 * PATIENCE_S + 1)
