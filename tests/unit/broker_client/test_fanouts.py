"""Fan-outs of a client against masters that know less than it asks for."""

from typing import Any, cast

import msgspec
import pytest

from broker_client.fanouts import Fanouts
from schemas.faults import Refused
from schemas.messages.actions import NoopArgs
from schemas.messages.fanouts import FanoutQuery, FanoutRecord, FanoutSubmit
from schemas.verbs import FANOUT_CANCEL, FANOUT_SUBMIT, AnyVerb


class Master:
    """Takes every fan-out in; knows rests between agents, or not."""

    def __init__(self, *, rests: bool) -> None:
        self.asked: list[str] = []
        self._rests = rests

    async def ask_until_answered(self, verb: AnyVerb, request: msgspec.Struct) -> FanoutRecord:
        return await self.ask(verb, request)

    async def ask(self, verb: AnyVerb, request: msgspec.Struct) -> FanoutRecord:
        self.asked.append(verb.name)
        assert isinstance(request, FanoutSubmit | FanoutQuery)
        sleep_s = request.batch_sleep_s if isinstance(request, FanoutSubmit) else 0.0
        return FanoutRecord(
            id=request.id or "",
            client="ann",
            state="running",
            reason="",
            submitted_at="",
            ended_at=None,
            agents=3,
            counts={"waiting": 3},
            at_once=1,
            max_failures=None,
            batch_sleep_s=sleep_s if self._rests else 0.0,
        )


async def submit(master: Master, batch_sleep_s: float) -> FanoutRecord:
    fanouts = Fanouts(cast("Any", master))
    return await fanouts.submit(
        "noop", NoopArgs(), id="f1", group="web", at_once=1, batch_sleep_s=batch_sleep_s
    )


async def test_master_that_does_not_rest_has_the_fan_out_cancelled() -> None:
    master = Master(rests=False)
    with pytest.raises(Refused, match="f1 is cancelled") as caught:
        await submit(master, 5.0)
    assert caught.value.code == "filter_unsupported"
    assert master.asked == [FANOUT_SUBMIT.name, FANOUT_CANCEL.name]


@pytest.mark.parametrize(("rests", "batch_sleep_s"), [(True, 5.0), (True, 0.0), (False, 0.0)])
async def test_fanout_is_submitted_to_a_master_that_obeys_its_pause(
    rests: bool, batch_sleep_s: float
) -> None:
    master = Master(rests=rests)
    assert (await submit(master, batch_sleep_s)).batch_sleep_s == batch_sleep_s
    assert master.asked == [FANOUT_SUBMIT.name]
