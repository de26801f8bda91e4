"""Agents that refuse, and agents that beat and take nothing: nobody waits for them."""

from broker_master.core.liveness import Presence
from broker_master.services.probe import Prober
from schemas.messages.work import PROBE_ATTEMPT
from schemas.states import State
from tests.unit.broker_master.stage import Stage, attempt_of

PERIOD_S = 2.5


def prober(stage: Stage) -> Prober:
    return Prober(stage.plane, stage.presence.on_untaken)


async def beats(stage: Stage, probe: Prober, seconds: float, *agents: str) -> None:
    """Time passes in steps of half an `ack_s`, and these agents beat all the time."""
    for _ in range(int(seconds / PERIOD_S)):
        await stage.later(PERIOD_S, beats=agents)
        for agent in agents:
            stage.sync(agent)
        probe.tick(PERIOD_S)


def presence(stage: Stage, agent: str) -> Presence:
    found = stage.plane.roster.get(agent)
    assert found is not None
    return found


async def test_idle_agent_is_probed_once_a_minute_and_goes_on_when_it_answers() -> None:
    stage = Stage("web-1")
    probe = prober(stage)
    await beats(stage, probe, 59, "web-1")
    assert stage.runs() == []
    await beats(stage, probe, 5, "web-1")
    (run,) = stage.runs()
    assert (run.attempt, run.action) == (PROBE_ATTEMPT, "noop")
    await stage.report("web-1", run.command, "succeeded", attempt=PROBE_ATTEMPT, seq=3)
    assert stage.released() == [(run.command, PROBE_ATTEMPT, 3)]
    await beats(stage, probe, 50, "web-1")
    assert len(stage.runs()) == 1
    assert not presence(stage, "web-1").stuck
    assert stage.facts.stored == {}


async def test_agent_that_beats_and_answers_no_probe_gets_nothing_until_it_does() -> None:
    stage = Stage("web-1", "web-2")
    probe = prober(stage)
    await beats(stage, probe, 62.5, "web-1", "web-2")
    await stage.report("web-2", stage.runs("web-2")[-1].command, "succeeded", attempt=PROBE_ATTEMPT)
    await beats(stage, probe, 15, "web-1", "web-2")
    assert (presence(stage, "web-1").stuck, presence(stage, "web-2").stuck) == (True, False)
    for number in range(4):
        command = await stage.submit(f"c{number}")
        assert attempt_of(command).agent == "web-2"
    await stage.report("web-1", stage.runs("web-1")[-1].command, "succeeded", attempt=PROBE_ATTEMPT)
    assert not presence(stage, "web-1").stuck
    command = await stage.submit("c9")
    assert attempt_of(command).agent == "web-1"


async def test_agent_that_leaves_commands_unanswered_gets_no_more_of_them() -> None:
    stage = Stage("web-1", "web-2")
    probe = prober(stage)
    first = await stage.submit("c0")
    stuck = attempt_of(first).agent
    other = "web-2" if stuck == "web-1" else "web-1"
    await beats(stage, probe, 12.5, "web-1", "web-2")
    assert presence(stage, stuck).stuck
    for number in range(1, 4):
        assert attempt_of(await stage.submit(f"c{number}")).agent == other
        await stage.report(other, f"c{number}", "succeeded")
    await stage.reply(stuck, "c0", "accepted")
    assert not presence(stage, stuck).stuck


async def test_retries_to_a_full_agent_have_a_back_off() -> None:
    stage = Stage("web-1")
    command = await stage.submit("c0")
    for _ in range(200):
        await stage.later(0.1, beats=("web-1",))
        if command.open_attempt is not None and len(stage.runs()) == len(command.attempts):
            number = len(command.attempts)
            await stage.reply("web-1", "c0", "rejected", attempt=number, code="agent_full")
    assert 5 <= len(command.attempts) <= 9
    assert command.state is State.QUEUED


async def test_command_that_agents_refuse_for_good_ends_without_holding_others_up() -> None:
    stage = Stage("web-1", "web-2")
    command = await stage.submit("c0")
    for _ in range(2):
        attempt = attempt_of(command)
        await stage.reply(
            attempt.agent, "c0", "rejected", attempt=attempt.number, code="action_unknown"
        )
    assert command.state is State.REJECTED
    assert {each.agent for each in command.attempts} == {"web-1", "web-2"}
    assert attempt_of(await stage.submit("c1")).agent in ("web-1", "web-2")
