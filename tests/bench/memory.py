"""Whether history stays out of the broker's memory: its RSS before and after many commands."""

import asyncio
import time
from pathlib import Path

import nats

from broker_client.runtime.identity import read_identity
from broker_client.runtime.nkeys import KeyPair
from schemas.subjects import MASTER_INBOX
from tests.bench.noop import SLOTS
from tests.bench.stage import Mesh, mesh_processes
from tests.bench.table import Row
from tests.children import peak_rss_bytes, rss_bytes

MIB = 1024 * 1024
COMMANDS = 300_000
QUICK_COMMANDS = 60_000
WINDOW_S = 10
IN_FLIGHT = 1000
GROWTH_MIB = 64
# How long the broker may take to purge, and its runtime to give memory back: without work it looks
# for garbage every two minutes only.
SETTLE_S = 180.0
LOOK_S = 2.0


async def measure(directory: Path, rounds: int) -> list[Row]:
    commands = COMMANDS if rounds > 1 else QUICK_COMMANDS
    env = {"MESH_RETENTION__FACTS_S": str(WINDOW_S)}
    async with mesh_processes(directory, slots=SLOTS, env=env) as mesh:
        broker = mesh.processes.broker_pid
        before = rss_bytes(broker)
        done = await mesh.noop(commands, IN_FLIGHT)
        loaded = peak_rss_bytes(broker)
        print(
            f"  {commands:,} commands at {done.per_s:,.0f}/s; broker RSS {before / MIB:.0f} MiB"
            f" before, at most {loaded / MIB:.0f} MiB meanwhile",
            flush=True,
        )
        after = await _settled(mesh, broker, before)
        master = peak_rss_bytes(mesh.processes.master.pid)
        agent = peak_rss_bytes(mesh.agent.pid)
    return [
        Row(
            f"broker RSS, growth by {commands:,}",
            (after - before) / MIB,
            "MiB",
            target=f"<= {GROWTH_MIB}",
        ),
        Row("broker RSS, peak", loaded / MIB, "MiB"),
        Row("master RSS, peak", master / MIB, "MiB", target="<= 150"),
        Row("agent RSS, peak", agent / MIB, "MiB"),
    ]


async def _settled(mesh: Mesh, broker: int, before: int) -> int:
    """The broker's RSS once its events are purged and it is small again, or `SETTLE_S` later.

    Raises RuntimeError if the events are still there.
    """
    began = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        left, rss, waited_s = await _events(mesh), rss_bytes(broker), time.monotonic() - began
        is_small = not left and rss - before < GROWTH_MIB * MIB / 2
        if is_small or waited_s > SETTLE_S:
            break
    print(
        f"  {left} events left and broker RSS {rss / MIB:.0f} MiB after {waited_s:.0f} s",
        flush=True,
    )
    if left:
        raise RuntimeError(f"{left} events were not purged in {SETTLE_S:g} s")
    return rss


async def _events(mesh: Mesh) -> int:
    """How many facts the broker holds, asked in the master's name: nobody else may."""
    identity = read_identity(mesh.processes.state_dir / "master")
    key = KeyPair.from_seed(identity.creds.seed)
    connection = await nats.connect(
        mesh.processes.nats_url,
        tls=identity.context,
        user_jwt_cb=lambda: bytearray(identity.creds.jwt.encode()),
        signature_cb=key.sign_nonce,
        inbox_prefix=f"{MASTER_INBOX}_bench",
    )
    try:
        info = await connection.jetstream().stream_info("MESH_EVENTS")
        return info.state.messages
    finally:
        await connection.close()
