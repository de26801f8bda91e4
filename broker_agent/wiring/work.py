"""Connects the parts that run tasks."""

import asyncio
from dataclasses import dataclass

from broker_agent.core.resources import WARN_SHARE, Bounds
from broker_agent.executors.registry import ExecutorPorts, Executors
from broker_agent.services.carrier import CarrierPost
from broker_agent.services.inputs import InputFetcher
from broker_agent.services.profiles import Profiles
from broker_agent.services.reporter import Reporter
from broker_agent.services.resources import ResourceMonitor
from broker_agent.services.runner import Runner
from broker_agent.services.running import Running
from broker_agent.services.shipper import Shipper
from broker_agent.services.warden import WardenPost
from broker_agent.services.watchdog import Watchdog
from broker_agent.services.wire import Station
from broker_agent.wiring.ports import Ports
from broker_agent.wiring.profiles import build_profiles


@dataclass(frozen=True, kw_only=True)
class Work:
    """Parts that run tasks and send what becomes of them."""

    carrier: CarrierPost
    post: WardenPost
    executors: Executors
    reporter: Reporter
    shipper: Shipper
    running: Running
    watchdog: Watchdog
    runner: Runner
    inputs: InputFetcher
    room: ResourceMonitor
    profiles: Profiles


def build_work(station: Station, ports: Ports) -> Work:
    others: set[int] = set()
    carrier = CarrierPost(others)
    profiles = build_profiles(station, ports.state_dir, ports.settings, others)
    reporter = Reporter(station)
    shipper = Shipper(station)
    executors = _executors(station, ports, carrier, others, profiles, shipper)
    running = Running(station)
    watchdog = Watchdog(station, running)
    inputs = InputFetcher(station, ports.state_dir)
    runner = Runner(
        station,
        running=running,
        watchdog=watchdog,
        journal=ports.journal,
        reporter=reporter,
        shipper=shipper,
        folders=ports.folders,
        executors=executors,
        inputs=inputs,
    )
    return Work(
        carrier=carrier,
        post=WardenPost(
            station, ports.table, ports.state_dir, cells=ports.cells.prefix, others=others
        ),
        executors=executors,
        reporter=reporter,
        shipper=shipper,
        running=running,
        watchdog=watchdog,
        runner=runner,
        inputs=inputs,
        room=ResourceMonitor(
            ports.state_dir,
            Bounds(ports.settings.spool_bytes, ports.settings.disk_free),
            journal=ports.journal,
            waiting_bytes=lambda: shipper.waiting_bytes,
            on_change=station.fitness,
            every_look=executors.reap,
        ),
        profiles=profiles,
    )


def _executors(
    station: Station,
    ports: Ports,
    carrier: CarrierPost,
    others: set[int],
    profiles: Profiles,
    shipper: Shipper,
) -> Executors:
    high_bytes = WARN_SHARE * ports.settings.spool_bytes
    return ports.make_executors(
        ExecutorPorts(
            loop=asyncio.get_running_loop(),
            grace_s=lambda: station.lease.timers.grace_s,
            elapsed=station.clock.elapsed,
            marks={
                "MESH_AGENT": station.address.agent,
                "MESH_GROUP": station.address.group,
                "MESH_INCARNATION": station.lease.incarnation,
            },
            carrier=carrier,
            table=ports.table,
            others=others,
            conditions=ports.conditions,
            cells=ports.cells,
            find_profile=profiles.find,
            is_spool_high=lambda: shipper.waiting_bytes >= high_bytes,
        )
    )
