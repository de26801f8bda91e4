"""Orders to agents: the answer of a ping counts whatever it says, and nobody asks twice at once."""

import asyncio

import pytest

from broker_client.asking import ANSWER_S
from broker_master.api.renewal_orders import ORDER_S
from broker_master.services.orders import Orders
from broker_master.settings import MasterSettings
from schemas import codec
from schemas.faults import Unreachable
from schemas.messages.work import Control, ControlReply
from schemas.timers import Timers
from tests.unit.broker_master.stage import Stage


def asked(stage: Stage) -> list[Control]:
    return [codec.decode(Control, payload) for _, payload in stage.link.published]


async def test_ping_lasts_from_its_sending_to_any_answer() -> None:
    stage = Stage("web-1")
    orders = Orders(stage.plane)
    stage.link.published.clear()
    pinging = asyncio.ensure_future(orders.ping("web-1", "web", 5.0))
    await asyncio.sleep(0)
    (control,) = asked(stage)
    stage.clock.advance(0.25)
    # As an agent that has never heard of pings answers.
    reply = ControlReply(kind="ping", code="verb_unknown", message="no order 'ping'")
    assert orders.on_reply("web-1", control.token, reply)
    assert await pinging == 0.25
    assert not orders.on_reply("web-1", control.token, reply)


async def test_many_who_ping_at_once_send_one_order() -> None:
    stage = Stage("web-1")
    orders = Orders(stage.plane)
    stage.link.published.clear()
    pinging = [asyncio.ensure_future(orders.ping("web-1", "web", 5.0)) for _ in range(100)]
    await asyncio.sleep(0)
    (control,) = asked(stage)
    orders.on_reply("web-1", control.token, ControlReply(kind="ping"))
    assert await asyncio.gather(*pinging) == [0.0] * 100


async def test_ping_that_may_be_lost_is_not_waited_for_by_others() -> None:
    stage = Stage("web-1")
    orders = Orders(stage.plane)
    stage.link.published.clear()
    first = asyncio.ensure_future(orders.ping("web-1", "web", 30.0))
    await asyncio.sleep(0)
    stage.clock.advance(2.0)
    second = asyncio.ensure_future(orders.ping("web-1", "web", 30.0))
    await asyncio.sleep(0)
    lost, control = asked(stage)
    assert lost.token != control.token
    orders.on_reply("web-1", control.token, ControlReply(kind="ping"))
    assert await second == 0.0
    first.cancel()
    await asyncio.wait({first})
    assert not orders._waiting
    assert not orders._pings


async def test_order_to_a_frozen_agent_is_given_up_at_the_callers_deadline() -> None:
    timers = Timers(ack_s=0.01, resends=9)
    stage = Stage("web-1", settings=MasterSettings(timers=timers))
    orders = Orders(stage.plane)
    stage.link.published.clear()
    with pytest.raises(Unreachable, match="does not answer, and may still get the order later"):
        await orders.give("web-1", "rotate", within_s=0.025)
    assert len(asked(stage)) == 3, "the order is idempotent, and is repeated until then"
    assert not orders._waiting
    stage.link.published.clear()
    with pytest.raises(Unreachable):
        await orders.give("web-1", "trust")
    assert len(asked(stage)) == 10


def test_master_stops_waiting_for_a_renewal_before_its_client_does() -> None:
    assert ORDER_S < ANSWER_S


async def test_silent_agent_gives_no_time_and_leaves_nothing_behind() -> None:
    stage = Stage("web-1")
    orders = Orders(stage.plane)
    assert await orders.ping("web-1", "web", 0.01) is None
    assert not orders._waiting
    assert not orders._pings
