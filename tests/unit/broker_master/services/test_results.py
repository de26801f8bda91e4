"""Results reach their clients although the master loses its link while they are on their way."""

import pytest

from broker_master.services import results
from broker_master.services.results import KEPT_S
from schemas import subjects
from tests.unit.broker_master.stage import Stage


async def ended(stage: Stage, command: str) -> None:
    await stage.submit(command)
    await stage.reply("web-1", command, "accepted")
    await stage.report("web-1", command, "succeeded")


def pushes(stage: Stage) -> list[tuple[str, bytes]]:
    prefix = subjects.result("", "").rstrip(".")
    return [each for each in stage.link.published if each[0].startswith(prefix)]


async def test_result_that_may_be_lost_with_the_link_is_published_again() -> None:
    stage = Stage("web-1")
    await ended(stage, "c1")
    (first,) = pushes(stage)
    stage.link.go()
    stage.clock.advance(10 * KEPT_S)  # however long the broker is away
    assert pushes(stage) == [first]
    stage.link.come()
    assert pushes(stage) == [first, first]
    # The new connection is lost as well.
    stage.link.go()
    stage.link.come()
    assert pushes(stage) == [first, first, first]


async def test_result_before_that_is_not() -> None:
    stage = Stage("web-1")
    await ended(stage, "c1")
    stage.clock.advance(KEPT_S + 1)
    await ended(stage, "c2")
    last = pushes(stage)[-1]
    stage.link.go()
    stage.link.come()
    assert pushes(stage)[2:] == [last]


async def test_result_of_an_end_without_a_link_comes_with_the_link() -> None:
    stage = Stage("web-1")
    await stage.submit("c1")
    await stage.reply("web-1", "c1", "accepted")
    stage.link.go()
    await stage.report("web-1", "c1", "succeeded")
    assert pushes(stage) == []
    stage.link.come()
    assert [subject for subject, _ in pushes(stage)] == [subjects.result("ops", "c1")]


@pytest.mark.parametrize(("limit", "value"), [("KEPT_MAX", 2), ("KEPT_BYTES", 1)])
async def test_results_that_are_kept_are_bounded(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(results, limit, value)
    stage = Stage("web-1")
    for number in range(5):
        await ended(stage, f"c{number}")
    before = pushes(stage)
    stage.link.go()
    stage.link.come()
    assert pushes(stage)[5:] == before[-value:]
