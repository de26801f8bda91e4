"""Scrapes of a plane, and the counters in them."""

from typing import Any

import msgspec
import pytest

from broker_agent.core.renewal_steps import RenewalSteps
from broker_master.core.certificates import with_candidate, with_confirmed
from broker_master.core.fanout import Fanout
from broker_master.core.histograms import Histogram
from broker_master.core.liveness import Change, Presence
from broker_master.core.measures import Measures, missed_beats
from broker_master.metrics.catalogue import FAMILIES, FANOUTS_FINISHED, PER_AGENT
from broker_master.metrics.http import Metered
from broker_master.plane import Plane
from broker_master.settings import CertificateSettings, MasterSettings
from schemas.messages.api import SubmitRequest
from schemas.messages.fanouts import FanoutEntry
from schemas.messages.registry import CertificateEntry
from schemas.states import AgentStatus, State
from tests.fake_clock import EPOCH, FakeClock
from tests.planes import (
    DAY_S,
    Samples,
    add_agent,
    add_group,
    beat,
    connect,
    make_plane,
    make_scraper,
    samples_of,
    scrape,
)
from tests.unit.broker_master import deeds

WEB_1 = {"agent": "web-1", "group": "web"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def plane(clock: FakeClock) -> Plane:
    made = make_plane(clock)
    add_group(made, "web")
    add_agent(made, "web-1", "web")
    return made


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def names_of(samples: Samples, agent: str) -> set[str]:
    return {name for name, labels in samples if ("agent", agent) in labels}


# agents


async def test_status_is_one_of_four_series_and_only_one_is_1(plane: Plane) -> None:
    connect(plane, "web-1")
    samples = await scrape(plane)
    shown = {
        str(status): value(samples, "mesh_agent_status", **WEB_1, status=status)
        for status in AgentStatus
    }
    assert shown == {"active": 1, "no_response": 0, "awaiting_setup": 0, "disabled": 0}
    assert value(samples, "mesh_group_active", group="web") == 1
    assert value(samples, "mesh_group_agents", group="web", status="active") == 1


async def test_silent_agent_keeps_its_status_and_loses_gauges_of_heartbeats(
    plane: Plane, clock: FakeClock
) -> None:
    connect(plane, "web-1", uptime_s=60)
    alive = names_of(await scrape(plane), "web-1")
    clock.advance(plane.timers.suspect_s)
    plane.roster.tick(now_s=clock.elapsed(), at=clock.now())
    samples = await scrape(plane)
    assert value(samples, "mesh_agent_status", **WEB_1, status="no_response") == 1
    gone = alive - names_of(samples, "web-1")
    assert gone == {
        "mesh_agent_uptime_seconds",
        "mesh_agent_heartbeat_rtt_seconds",
        "mesh_agent_clock_skew_seconds",
        "mesh_agent_tasks_running",
        "mesh_agent_task_slots",
        "mesh_agent_log_buffer_bytes",
    }
    assert value(samples, "mesh_agent_last_heartbeat_timestamp_seconds", **WEB_1) == EPOCH


async def test_series_of_a_deleted_agent_end_and_its_namesake_begins_anew(plane: Plane) -> None:
    connect(plane, "web-1")
    scraper = make_scraper(plane)
    await scraper.page()
    plane.telemetry.measures.losses["web-1"] = [3, 1]
    del plane.registry.agents["web-1"]
    plane.roster.remove("web-1")
    scraper.forget()
    assert names_of(samples_of((await scraper.page()).body), "web-1") == set()
    add_agent(plane, "web-1", "web")
    scraper.forget()
    samples = samples_of((await scraper.page()).body)
    assert value(samples, "mesh_agent_status", **WEB_1, status="no_response") == 1
    assert "mesh_agent_connection_losses_total" not in names_of(samples, "web-1")


async def test_start_time_stands_still_within_one_process_and_moves_with_the_next(
    plane: Plane, clock: FakeClock
) -> None:
    scraper = make_scraper(plane)

    async def start() -> float | None:
        scraper.forget()
        samples = samples_of((await scraper.page()).body)
        return value(samples, "mesh_agent_start_time_seconds", **WEB_1)

    connect(plane, "web-1", uptime_s=60)
    assert await start() == EPOCH - 60
    clock.advance(5)
    beat(plane, "web-1", uptime_s=65.3)  # as its own clock counts
    assert await start() == EPOCH - 60
    clock.advance(5)
    connect(plane, "web-1", incarnation="i2", uptime_s=1)
    assert await start() == clock.now() - 1


async def test_changes_of_status_are_counted_between_scrapes_too(
    plane: Plane, clock: FakeClock
) -> None:
    scraper = make_scraper(plane)
    scraper.look()
    connect(plane, "web-1")
    scraper.look()
    clock.advance(plane.timers.suspect_s)
    plane.roster.tick(now_s=clock.elapsed(), at=clock.now())
    samples = samples_of((await scraper.page()).body)
    changes = "mesh_agent_status_changes_total"
    assert value(samples, changes, group="web", **{"from": "no_response", "to": "active"}) == 1
    assert value(samples, changes, group="web", **{"from": "active", "to": "no_response"}) == 1
    assert value(samples, changes, group="web", **{"from": "active", "to": "disabled"}) == 0


async def test_without_per_agent_metrics_the_totals_stay(clock: FakeClock) -> None:
    plane = make_plane(clock, MasterSettings(per_agent_metrics=False))
    add_group(plane, "web")
    add_agent(plane, "web-1", "web")
    connect(plane, "web-1")
    samples = await scrape(plane)
    assert names_of(samples, "web-1") == set()
    assert not {name for name, _ in samples} & set(PER_AGENT)
    assert value(samples, "mesh_group_agents", group="web", status="active") == 1


async def test_label_values_from_a_host_are_escaped_and_cut(plane: Plane) -> None:
    connect(plane, "web-1")
    presence = plane.roster.get("web-1")
    assert presence is not None
    presence.details = type(presence.details)(version='1"}\n' + "x" * 200, os="\\", arch="a")
    samples = await scrape(plane)
    found = [dict(labels) for name, labels in samples if name == "mesh_agent_info"]
    assert len(found) == 1
    assert found[0]["version"].startswith('1"}\nx')
    assert len(found[0]["version"]) == 64
    assert found[0]["os"] == "\\"


# certificates


async def test_rotation_is_pending_while_two_keys_are_good(plane: Plane, clock: FakeClock) -> None:
    async def pending() -> float | None:
        samples = await scrape(plane)
        return value(samples, "mesh_agent_certificate_rotation_pending", **WEB_1)

    connect(plane, "web-1")
    entry = plane.registry.agents["web-1"]
    assert await pending() == 0
    at = clock.now()
    candidate = CertificateEntry(
        serial="next",
        not_after=at + 90 * DAY_S,
        user_nkey="U2",
        issued_at=at,
        candidate_until=at + DAY_S,
    )
    both = with_candidate(entry.certificates, candidate, at)
    plane.registry.agents["web-1"] = msgspec.structs.replace(entry, certificates=both)
    assert await pending() == 1
    moved = with_confirmed(both, "next", at)
    plane.registry.agents["web-1"] = msgspec.structs.replace(entry, certificates=moved)
    assert await pending() == 0


async def test_failed_renewals_and_copied_identities_are_seen(plane: Plane) -> None:
    connect(plane, "web-1")
    failed = "mesh_agent_certificate_renewal_failed"
    assert value(await scrape(plane), failed, **WEB_1) is None
    beat(plane, "web-1", renewal="ask: rate_limited")
    for name in (("duplicate_identity",), ("renewal", "rate_limited"), ("audit", "lost")):
        plane.count(*name)
    samples = await scrape(plane)
    assert value(samples, failed, **WEB_1) == 1
    assert value(samples, "mesh_auth_failures_total", reason="duplicate_identity") == 1
    renewals = "mesh_certificate_renewals_total"
    assert value(samples, renewals, outcome="rate_limited") == 1
    assert value(samples, renewals, outcome="confirmed") == 0
    assert value(samples, "mesh_audit_lost_total") == 1


@pytest.mark.parametrize("agent_days", [90.0, 30.0, 7.0])
def test_warning_comes_only_after_the_last_moment_at_which_agents_renew(agent_days: float) -> None:
    life_s = agent_days * DAY_S
    last = RenewalSteps(0.0, life_s, chance=1.0).next_at()
    warning_s = CertificateSettings(agent_days=agent_days).warning_s
    assert 0 < warning_s < life_s - last


# commands


def test_outcome_is_counted_once_for_its_command_and_its_kill_by_reason() -> None:
    measures = Measures()
    command = deeds.command_of(deeds.accepted(), deeds.assigned())
    _, lost = deeds.ended(state=State.KILLED_FENCED, started_at=EPOCH + 1, final=False)
    _, timed_out = deeds.ended(state=State.TIMED_OUT, started_at=EPOCH + 1, ended_at=EPOCH + 4)
    for outcome in (lost, timed_out):
        measures.on_outcome(command, outcome)  # type: ignore[arg-type]  # of deeds
    group = measures.group("web")
    assert group.finished == {("noop", "timed_out"): 1}
    assert group.killed == {"connection_lost": 1, "timeout": 1}
    assert sum(group.duration["noop"].counts) == 2


async def test_outcomes_are_there_as_0_before_the_first_of_them(plane: Plane) -> None:
    samples = await scrape(plane)
    finished = "mesh_commands_finished_total"
    assert value(samples, finished, group="web", action="process", outcome="lost") == 0
    plane.telemetry.measures.group("web").finished["process", "lost"] = 2
    samples = await scrape(plane)
    assert value(samples, finished, group="web", action="process", outcome="lost") == 2


async def test_programs_are_so_many_and_begin_with_0(plane: Plane) -> None:
    plane.telemetry.measures = measures = Measures(programs=2)
    command = deeds.command_of(
        deeds.accepted(), deeds.assigned(), deeds.ended(state=State.FAILED, started_at=EPOCH + 1)
    )
    for name in ("apt", "apt", "rm", "third", "fourth"):
        measures.on_finished(command, name)
    finished = "mesh_program_finished_total"
    samples = await scrape(plane)
    assert value(samples, finished, group="web", program="apt", outcome="failed") == 0
    samples = await scrape(plane)
    assert value(samples, finished, group="web", program="apt", outcome="failed") == 2
    assert value(samples, finished, group="web", program="(others)", outcome="failed") == 2
    assert value(samples, "mesh_program_runs_total", group="web", program="apt") == 2
    assert len([name for name, _ in samples if name == finished]) == 3


async def test_programs_can_be_left_out(plane: Plane) -> None:
    plane.telemetry.measures = measures = Measures(programs=0)
    measures.on_finished(deeds.command_of(deeds.accepted(), deeds.assigned(), deeds.ended()), "apt")
    assert not [name for name, _ in await scrape(plane) if name.startswith("mesh_program")]


async def test_open_commands_are_counted_by_phase_with_the_age_of_the_oldest_queued(
    plane: Plane,
) -> None:
    for number in range(3):
        fact, accepted = deeds.accepted(f"c{number}", submitted_at=EPOCH + number)
        command = plane.book.replay(fact, accepted, number + 1)
        assert command is not None
        if number == 0:
            command.state = State.RUNNING
    samples = await scrape(plane)
    assert value(samples, "mesh_commands_in_flight", group="web", phase="queued") == 2
    assert value(samples, "mesh_commands_in_flight", group="web", phase="running") == 1
    oldest = value(samples, "mesh_command_oldest_queued_timestamp_seconds", group="web")
    assert oldest == EPOCH + 1


def test_histogram_puts_a_value_at_its_bound_below_it_and_nothing_below_zero() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.1, 0.5, 1.0, 7.0, -3.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == pytest.approx(8.6)


async def test_histogram_is_cumulative_and_ends_in_its_count(plane: Plane) -> None:
    for seconds in (0.002, 0.3, 99.0):
        plane.telemetry.measures.group("web").acknowledge.observe(seconds)
    samples = await scrape(plane)
    name = "mesh_command_acknowledge_seconds"
    assert value(samples, f"{name}_bucket", group="web", le="0.0025") == 1
    assert value(samples, f"{name}_bucket", group="web", le="10.0") == 2
    assert value(samples, f"{name}_bucket", group="web", le="+Inf") == 3
    assert value(samples, f"{name}_count", group="web") == 3


async def test_fan_outs_are_counted_while_they_run_and_by_their_ends(plane: Plane) -> None:
    made = {"id": "f1", "client": "ann", "digest": b"", "submitted_at": 1.0, "groups": ["web"]}
    entry = FanoutEntry(**made, agents=["web-1", "web-2"], command=SubmitRequest())  # type: ignore[arg-type]
    plane.fanouts.running["f1"] = Fanout(entry, {"web-1": State.SUCCEEDED})
    plane.count("fanout", "partial")
    page = await scrape(plane)
    assert page["mesh_fanouts_running", frozenset()] == 1
    assert page["mesh_fanout_agents_remaining", frozenset()] == 1
    ends = {
        dict(labels)["state"]: n
        for (name, labels), n in page.items()
        if name == FANOUTS_FINISHED.name
    }
    assert ends == {"succeeded": 0, "partial": 1, "failed": 0, "cancelled": 0}


async def test_series_of_a_deleted_group_end(plane: Plane) -> None:
    add_group(plane, "old")
    plane.telemetry.measures.group("old").beats = 7
    assert value(await scrape(plane), "mesh_heartbeats_received_total", group="old") == 7
    del plane.registry.groups["old"]
    samples = await scrape(plane)
    assert not [labels for _, labels in samples if ("group", "old") in labels]


# losses


@pytest.mark.parametrize(
    ("silence_s", "incarnation", "expected"),
    [(12.0, "i1", [1, 0]), (40.0, "i1", [0, 1]), (12.0, "i2", [0, 1])],
    ids=["short", "longer than the lease", "another process"],
)
def test_loss_ends_as_recovered_or_unrecoverable(
    silence_s: float, incarnation: str, expected: list[int]
) -> None:
    measures, timers = Measures(), MasterSettings().timers
    presence = Presence(agent="web-1", group="web", incarnation="i1")
    measures.on_change(Change("web-1", "suspected"), presence, timers, 100.0)
    assert measures.losses == {"web-1": [0, 0]}
    presence.incarnation = incarnation
    later = 100.0 - timers.suspect_s + silence_s
    measures.on_change(Change("web-1", "returned"), presence, timers, later)
    assert measures.losses == {"web-1": expected}


def test_given_up_agent_has_one_loss_also_after_its_return() -> None:
    measures, timers = Measures(), MasterSettings().timers
    presence = Presence(agent="web-1", group="web", incarnation="i1")
    for event, at in (("suspected", 10.0), ("given_up", 50.0), ("returned", 60.0)):
        measures.on_change(Change("web-1", event), presence, timers, at)  # type: ignore[arg-type]
    assert measures.losses == {"web-1": [0, 1]}


def test_agent_that_says_goodbye_loses_nothing() -> None:
    measures = Measures()
    presence = Presence(agent="web-1", group="web")
    measures.on_change(Change("web-1", "goodbye"), presence, MasterSettings().timers, 1.0)
    assert measures.losses == {}


def test_beat_that_is_a_tenth_late_is_not_missed() -> None:
    assert [missed_beats(silence, 5.0) for silence in (5.0, 5.5, 7.4, 7.6, 13.0)] == [0, 0, 0, 1, 2]


# the page


async def test_every_metric_of_a_page_is_in_the_catalogue_with_its_labels(plane: Plane) -> None:
    connect(plane, "web-1")
    plane.telemetry.measures.group("web").acknowledge.observe(0.1)
    plane.telemetry.measures.losses["web-1"] = [1, 0]
    plane.telemetry.measures.on_request("/metrics", "GET", 200, 0.01)
    plane.count("refused", "forbidden")
    samples = await scrape(plane)
    for name, labels in samples:
        if name.startswith(("process_", "python_")):
            continue
        base = name
        for part in ("_bucket", "_sum", "_count"):
            if name.removesuffix(part) in FAMILIES:
                base = name.removesuffix(part)
        told = {label for label, _ in labels} - {"le"}
        assert told == set(FAMILIES[base].labels), name
    assert value(samples, "mesh_auth_failures_total", reason="permission") == 1


async def test_a_thousand_agents_are_fetched_in_less_than_a_megabyte(plane: Plane) -> None:
    for number in range(1000):
        add_agent(plane, f"agent-{number:04}", "web")
        connect(plane, f"agent-{number:04}")
    fetched = await make_scraper(plane).page(gzip=True)
    assert len(fetched.body) < 1_000_000


async def test_page_is_kept_for_a_second_and_packed_once(plane: Plane, clock: FakeClock) -> None:
    scraper = make_scraper(plane)
    first = (await scraper.page()).body
    packed = await scraper.page(gzip=True)
    assert packed.encoding == "gzip"
    add_group(plane, "new")
    assert (await scraper.page()).body is first
    assert (await scraper.page(gzip=True)).body is packed.body
    clock.advance(1.0)
    assert b'group="new"' in (await scraper.page()).body


# HTTP


async def test_requests_are_counted_by_declared_route_and_never_by_path() -> None:
    measures = Measures()

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  ASGI
        if scope["path"].startswith("/agents/"):
            scope["path_template"] = "/agents/{name}"
            await send({"type": "http.response.start", "status": 200})
        elif scope["path"] == "/bad":
            raise RuntimeError
        else:
            await send({"type": "http.response.start", "status": 404})

    async def nothing(*_: object) -> Any:  # noqa: ANN401  ASGI
        return {}

    metered = Metered(app, measures, FakeClock())
    for path in ("/agents/a", "/agents/b", "/x", "/y"):
        await metered({"type": "http", "path": path, "method": "GET"}, nothing, nothing)
    with pytest.raises(RuntimeError):
        await metered({"type": "http", "path": "/bad", "method": "BREW"}, nothing, nothing)
    assert measures.answers == {
        ("/agents/{name}", "GET", 200): 2,
        ("unmatched", "GET", 404): 2,
        ("unmatched", "other", 500): 1,
    }
