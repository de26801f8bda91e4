"""An agent short of resources refuses tasks, reports the shortage, and goes on."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_agent.core.resources import FDS_PER_TASK, FDS_RESERVED, Bounds, Reading, lacks
from broker_agent.services.intake import Intake
from broker_agent.services.resources import ResourceMonitor
from schemas.states import Lack
from tests.host.broker_agent.rig import NOT_AFTER, WAIT_S, Rig
from tests.waiting import eventually

GIB = 1024**3
BOUNDS = Bounds(spool_bytes=GIB, disk_free=0.05)


def test_tasks_are_accepted_until_a_resource_is_short() -> None:
    assert lacks(Reading(), BOUNDS) == {}
    assert lacks(Reading(GIB - 1, 0.05, FDS_RESERVED + FDS_PER_TASK), BOUNDS) == {}


@pytest.mark.parametrize(
    ("reading", "lack", "text"),
    [
        (Reading(spool_bytes=GIB), Lack.SPOOL, "1024 MiB of output wait for the broker"),
        (Reading(disk_free=0.049), Lack.DISK, "4.9 % of the disk are free, less than 5 %"),
        (Reading(fds_free=FDS_RESERVED), Lack.FDS, "only 24 file descriptors are left"),
        (Reading(journal_fault="disk I/O error"), Lack.JOURNAL, "disk I/O error"),
    ],
)
def test_shortage_is_named(reading: Reading, lack: Lack, text: str) -> None:
    found = lacks(reading, BOUNDS)
    assert list(found) == [lack]
    assert text in found[lack]


class Roomy:
    """A rig with small limits."""

    def __init__(self, rig: Rig, state_dir: Path, **bounds: float) -> None:
        self.waiting = 0
        self.changes = 0
        self.room = ResourceMonitor(
            state_dir,
            BOUNDS._replace(**bounds),  # type: ignore[arg-type]
            journal=rig.journal,
            waiting_bytes=lambda: self.waiting,
            on_change=self.changed,
            every_look=lambda: None,
        )
        self.rig = rig
        rig.heartbeats._room = self.room
        intake = Intake(
            rig.station,
            journal=rig.journal,
            running=rig.running,
            runner=rig.runner,
            reporter=rig.reporter,
            room=self.room,
            valid_until=lambda: NOT_AFTER,
        )
        rig.inbox._handlers["run"] = intake.on_run  # type: ignore[index]

    def changed(self) -> None:
        self.changes += 1

    def is_full(self) -> bool:
        self.rig.heartbeats.send()
        return self.rig.beats_sent()[-1].full


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()
    yield rig
    await rig.close()


async def test_full_spool_refuses_tasks_shows_in_the_heartbeat_and_recovers(
    rig: Rig, tmp_path: Path
) -> None:
    roomy = Roomy(rig, tmp_path)
    roomy.room.look()
    assert not roomy.is_full()
    roomy.waiting = 2 * GIB
    roomy.room.look()
    assert (roomy.is_full(), roomy.changes) == (True, 1)
    lacks = {"spool": "2048 MiB of output wait for the broker, of 1024 at most"}
    assert rig.beats_sent()[-1].lacks == lacks
    rig.run("c1", ["true"])
    reply = await rig.reply_to("c1")
    assert (reply.answer, reply.code) == ("rejected", "agent_full")
    assert "2048 MiB of output wait" in reply.message
    rig.run("n1")  # a noop needs no resources
    assert (await rig.end_of("n1")).state == "succeeded"
    roomy.waiting = 0
    roomy.room.look()
    assert (roomy.is_full(), roomy.changes) == (False, 2)
    rig.run("c2", ["true"])
    assert (await rig.reply_to("c2")).answer == "accepted"
    await rig.end_of("c2")


async def test_disk_below_its_floor_refuses_tasks(rig: Rig, tmp_path: Path) -> None:
    roomy = Roomy(rig, tmp_path, disk_free=1.1)
    roomy.room.look()
    rig.run("c1", ["true"])
    reply = await rig.reply_to("c1")
    assert (reply.code, "of the disk are free" in reply.message) == ("agent_full", True)
    assert roomy.is_full()


async def test_failed_journal_is_retried_without_a_request(rig: Rig, tmp_path: Path) -> None:
    """The master sends no work to a full agent, so that no request would retry the journal."""
    roomy = Roomy(rig, tmp_path)
    rig.journal._rows._db.execute("PRAGMA query_only = ON")
    rig.run("c1", ["true"])
    assert (await rig.reply_to("c1")).code == "journal_unavailable"
    roomy.room.look()
    assert roomy.is_full()
    rig.journal._rows._db.execute("PRAGMA query_only = OFF")

    def has_room() -> bool:
        roomy.room.look()
        return not roomy.room.lacks

    await eventually(has_room, WAIT_S)
    rig.run("c2", ["true"])
    assert (await rig.reply_to("c2")).answer == "accepted"
    await rig.end_of("c2")


async def test_agent_without_descriptors_refuses_tasks_and_keeps_its_heartbeat(
    rig: Rig, tmp_path: Path
) -> None:
    roomy = Roomy(rig, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + FDS_RESERVED + 1, limits[1]))
    try:
        roomy.room.look()
        rig.run("c1", ["true"])
        reply = await rig.reply_to("c1")
        assert (reply.code, "descriptors" in reply.message) == ("agent_full", True)
        assert roomy.is_full()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_burst_cannot_take_more_descriptors_than_there_are(rig: Rig, tmp_path: Path) -> None:
    """Tasks accepted between two measurements count."""
    roomy = Roomy(rig, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    room = FDS_RESERVED + 2 * FDS_PER_TASK + 4
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, limits[1]))
    try:
        roomy.room.look()
        assert roomy.room.refusal() == ""
        assert roomy.room.refusal() == ""
        held = [os.dup(0) for _ in range(2 * FDS_PER_TASK)]
        assert "descriptors" in roomy.room.refusal()
        for fd in held:
            os.close(fd)
        assert roomy.room.refusal() == ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await asyncio.sleep(0)
