"""The strip of an agent's last results: read once, then followed, never wrong by what lags."""

from broker_master.core.recent import LAST, Recents
from schemas.states import RESULT_LETTERS, TERMINAL


class History:
    """History so far, the newest last; counts how often it is read."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.reads = 0

    def load(self, agent: str, most: int) -> list[tuple[str, str]]:
        assert agent == "web-1"
        self.reads += 1
        return self.rows[::-1][:most]


def test_every_end_has_a_letter_of_its_own() -> None:
    assert set(RESULT_LETTERS) == TERMINAL
    assert len(set(RESULT_LETTERS.values())) == len(TERMINAL)


def test_history_is_read_once_and_then_followed_newest_last() -> None:
    history = History()
    history.rows = [("c1", "succeeded"), ("c2", "failed")]
    recents = Recents(history.load)
    assert recents.of("web-1") == ".F"
    recents.note("web-1", "c3", "lost", is_new=True)
    assert recents.of("web-1") == ".FL"
    assert history.reads == 1


def test_record_is_listed_once_before_and_after_history_has_it() -> None:
    history = History()
    recents = Recents(history.load)
    recents.note("web-1", "c1", "succeeded", is_new=True)
    recents.note("web-1", "c2", "timed_out", is_new=True)
    history.rows = [("c1", "succeeded")]
    assert recents.of("web-1") == ".T"
    history.rows.append(("c2", "timed_out"))
    for command, state in history.rows:
        recents.on_written("web-1", command, state)
    recents.forget("web-1")
    assert recents.of("web-1") == ".T"


def test_late_word_replaces_the_letter_of_its_command() -> None:
    history = History()
    history.rows = [("c1", "lost"), ("c2", "succeeded")]
    recents = Recents(history.load)
    assert recents.of("web-1") == "L."
    recents.note("web-1", "c1", "failed", is_new=False)
    # The amended record is the newest in history; until it is there its letter stands last too.
    assert recents.of("web-1") == ".F"
    history.rows = [("c2", "succeeded"), ("c1", "failed")]
    recents.on_written("web-1", "c1", "failed")
    recents.forget("web-1")
    assert recents.of("web-1") == ".F"


def test_word_that_is_written_leaves_a_later_one_that_is_not() -> None:
    history = History()
    recents = Recents(history.load)
    recents.note("web-1", "c1", "lost", is_new=True)
    recents.note("web-1", "c1", "succeeded", is_new=False)
    history.rows = [("c1", "lost")]
    recents.on_written("web-1", "c1", "lost")
    assert recents.of("web-1") == "."


def test_only_the_last_ones_are_kept() -> None:
    history = History()
    history.rows = [(f"c{index}", "succeeded") for index in range(LAST + 5)]
    recents = Recents(history.load)
    assert recents.of("web-1") == "." * LAST
    recents.note("web-1", "new", "failed", is_new=True)
    assert recents.of("web-1") == "." * (LAST - 1) + "F"


def test_command_of_no_agent_counts_for_nobody() -> None:
    recents = Recents(History().load)
    recents.note("", "c1", "expired", is_new=True)
    assert not recents._unwritten
