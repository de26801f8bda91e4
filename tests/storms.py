"""One member that says far too much, and how the others fare meanwhile.

quiet = await fare(client, 5, agent="web-1")
async with raging(mesh, "bad-1", "beats") as storm:
    loud = await fare(client, 5, agent="web-1")
"""

import asyncio
import contextlib
import hashlib
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker_client.api import MeshClient
from broker_client.runtime.identity import read_identity
from schemas import codec, subjects
from schemas.messages.actions import NoopArgs
from schemas.messages.api import AuditPage, AuditQuery, GroupRecord, NameQuery
from schemas.messages.liveness import Beat, Hello, TaskStatus
from schemas.messages.work import AttemptReport, LogChunk, Report
from tests.harness import MeshProcesses
from tests.rawlink import RawLink, pub

# What is written at one time; the rest of a second is shared out evenly.
_TURN_S: Final = 0.01
# A reader of what comes back, so that the broker never waits for us.
_READ_BYTES: Final = 1 << 16
_ROOT: Final = Path(__file__).parents[1]
# What a master may hold, whoever talks.
RSS_MB: Final = 300.0


@dataclass(frozen=True)
class Fared:
    """latencies: of commands of others, in seconds, sorted."""

    latencies: list[float]

    @property
    def p50_ms(self) -> float:
        return self._at(0.5)

    @property
    def p99_ms(self) -> float:
        return self._at(0.99)

    def _at(self, part: float) -> float:
        return 1000 * self.latencies[min(len(self.latencies) - 1, int(part * len(self.latencies)))]


async def fare(client: MeshClient, for_s: float, *, agent: str, pause_s: float = 0.02) -> Fared:
    """Run no-ops on `agent`, one after the other; each must succeed."""
    latencies = []
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        began = time.monotonic()
        record = await client.run(NoopArgs(), agent=agent, timeout_s=60)
        latencies.append(time.monotonic() - began)
        assert record.state == "succeeded", record
        await asyncio.sleep(pause_s)
    return Fared(sorted(latencies))


@dataclass(frozen=True)
class Kind:
    """frame: what is sent, made of its number."""

    frame: Callable[[int], bytes]
    per_s: float


class Storm:
    """sent: how many frames the storm has said, known when it is over."""

    sent = 0


@contextlib.asynccontextmanager
async def raging(mesh: MeshProcesses, agent: str, kind: str) -> AsyncIterator[Storm]:
    """One of `STORMS`, over a connection of `agent`, while the block runs.

    It rages in a process of its own: what it costs to make is not to slow down who measures.
    """
    folder = mesh.agent_dir(agent) / "identity" / "current"
    argv = [sys.executable, "-m", "tests.storms", mesh.nats_url, str(folder), kind]
    storm = Storm()
    process = await asyncio.create_subprocess_exec(*argv, cwd=_ROOT, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"raging\n"
        yield storm
        process.stdin.close()
        storm.sent = int(await process.stdout.read())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


LOUD: Final = "bad-1"
LOUD_GROUP: Final = "bad"


def _up(kind: str, payload: bytes) -> bytes:
    return pub(subjects.up(LOUD_GROUP, LOUD, kind), payload)


def _reports(number: int) -> bytes:
    item = AttemptReport(
        command=f"none-{number}", attempt=1, kind="ended", seq=number, state="succeeded"
    )
    return _up("report", codec.encode(Report(incarnation="evil", items=[item])))


_TASKS: Final = [
    TaskStatus(command=f"none-{each}", attempt=1, state="running") for each in range(512)
]
_HELLO: Final = codec.encode(Hello(incarnation="evil", slots=1, tasks=_TASKS))


def _hellos(_: int) -> bytes:
    return _up("hello", _HELLO)


def _beats(_: int) -> bytes:
    return _up("beat", b"\x80")


_CHUNK: Final = b"x" * 64 * 1024


def _output(number: int) -> bytes:
    chunk = LogChunk(offset=number * len(_CHUNK), data=_CHUNK)
    subject = subjects.log(LOUD_GROUP, LOUD, "endless", 1, "stdout")
    return pub(subject, codec.encode(chunk))


def _incarnations(number: int) -> bytes:
    name = f"evil-{number % 2}"
    if number % 4 < 2:
        return _up("hello", codec.encode(Hello(incarnation=name, slots=1)))
    return _up("beat", codec.encode(Beat(incarnation=name, seq=number)))


def _trusts(number: int) -> bytes:
    trust = hashlib.sha256(str(number).encode()).hexdigest()
    return _up("hello", codec.encode(Hello(incarnation="evil", slots=1, trust=trust)))


STORMS: Final[dict[str, Kind]] = {
    "reports": Kind(_reports, 3600),
    "hellos": Kind(_hellos, 1500),
    "beats": Kind(_beats, 20_000),
    "output": Kind(_output, 200),
    "incarnations": Kind(_incarnations, 700),
    "trusts": Kind(_trusts, 200),
}


async def harmed(mesh: MeshProcesses, client: MeshClient, metrics: str) -> list[str]:
    """Damage to the other members, in words; empty if there is none."""
    found = []
    group = await client.ask("group", "show", NameQuery(name="web"), GroupRecord)
    if group.agents.get("active") != len(mesh.agents) - 1:
        found.append(f"agents of web: {group.agents}")
    for labels, value in series(metrics, "mesh_agent_status_changes_total"):
        if 'group="web"' in labels and 'from="active"' in labels and value:
            found.append(f"status changes {labels}: {value}")
    lost = dict(series(metrics, "mesh_audit_lost_total"))
    if any(lost.values()):
        found.append(f"audit entries lost: {lost}")
    if rss_mb(mesh.master.pid) >= RSS_MB:
        found.append(f"the master holds {rss_mb(mesh.master.pid):.0f} MB")
    return found


async def entries(client: MeshClient, action: str, by: str = "") -> list[str]:
    """The targets of the newest entries of the audit trail."""
    query = AuditQuery(action=action, limit=200)
    page = await client.ask("audit", "list", query, AuditPage)
    return [each.target for each in page.entries if not by or each.by == by]


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} is gone")


def series(metrics: str, name: str) -> Iterator[tuple[str, float]]:
    """Labels and value of each sample of a family."""
    for line in metrics.splitlines():
        if line.startswith((f"{name}{{", f"{name} ")):
            labels, _, value = line.rpartition(" ")
            yield labels.removeprefix(name), float(value)


# -- the process that rages


class _Rage:
    def __init__(self, link: RawLink, kind: Kind) -> None:
        self._link = link
        self._kind = kind
        self._began = time.monotonic()
        self.sent = 0

    async def run(self) -> None:
        frame = self._kind.frame
        while True:
            due = int((time.monotonic() - self._began) * self._kind.per_s)
            frames = [frame(number) for number in range(self.sent, due)]
            self.sent = due
            self._link.writer.writelines(frames)
            await self._link.writer.drain()
            await asyncio.sleep(_TURN_S)

    async def read(self) -> None:
        """Read all answers, so that the broker never waits for us."""
        while await self._link.reader.read(_READ_BYTES):
            pass


async def _rage(url: str, folder: Path, kind: Kind) -> None:
    """Until stdin ends; then the number of frames is printed."""
    identity = read_identity(folder)
    creds = identity.creds
    link = await RawLink.open(url, identity.context, creds.jwt, creds.seed)
    await link.say(b"PING\r\n")
    rage = _Rage(link, kind)
    tasks = [asyncio.ensure_future(each) for each in (rage.run(), rage.read())]
    sys.stdout.write("raging\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    sys.stdout.write(f"{rage.sent}\n")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    link.abort()


if __name__ == "__main__":
    asyncio.run(_rage(sys.argv[1], Path(sys.argv[2]), STORMS[sys.argv[3]]))
