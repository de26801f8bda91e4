"""The broker below a master: started, watched, ended; and what its configuration promises."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.js.api import StreamConfig

from broker_master.broker_child import choose_port, is_port_free
from broker_master.broker_config import BrokerLimits, render_config
from broker_master.ca.mesh import init_mesh, open_mesh
from broker_master.embedded import ChildSettings, EmbeddedBroker
from schemas.faults import MeshError
from tests.servers import MeshBroker, connect_raw, mesh_broker, server_binary
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.integration


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[MeshBroker]:
    async with mesh_broker(tmp_path) as broker:
        yield broker


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    """End a broker whose master, not this process, had started it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def broker_pid(broker: EmbeddedBroker) -> int:
    pid = broker.pid
    assert pid is not None
    return pid


async def fault_of(broker: EmbeddedBroker) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await broker.start(ready_s=10)
    assert broker.pid is None
    assert "\n" not in caught.value.message
    return caught.value


async def test_stopped_broker_is_gone_and_comes_back_at_the_same_port(running: MeshBroker) -> None:
    pid, port = broker_pid(running.broker), running.broker.port
    await running.broker.stop()
    assert not is_alive(pid)
    assert running.broker.pid is None
    again = EmbeddedBroker(open_mesh(running.directory))
    await again.start()
    try:
        assert again.port == port
        await (await connect_raw(running.issue("agent", "web-1", "web"))).close()
    finally:
        await again.stop()


async def test_killed_broker_is_started_again_with_what_it_had_stored(tmp_path: Path) -> None:
    broker = EmbeddedBroker(init_mesh(tmp_path / "master"))
    ready = asyncio.Event()
    service = asyncio.create_task(broker.run(ready))
    async with asyncio.timeout(PATIENCE_S):
        await ready.wait()
    credentials = MeshBroker(broker._mesh, broker).issue("master", "master-1")
    connection = await connect_raw(credentials)
    await connection.jetstream().add_stream(StreamConfig(name="S", subjects=["s"]))
    for number in range(20):
        await connection.jetstream().publish("s", str(number).encode())
    await connection.close()
    first = broker_pid(broker)
    os.kill(first, signal.SIGKILL)
    await eventually(
        lambda: broker.pid not in (None, first) and not is_port_free("127.0.0.1", broker.port), 10
    )
    connection = await connect_raw(credentials)
    assert (await connection.jetstream().stream_info("S")).state.messages == 20
    await connection.close()
    assert broker.restarts == 1
    last = broker_pid(broker)
    service.cancel()
    with pytest.raises(asyncio.CancelledError):
        await service
    assert not is_alive(last)


SCRIPT = """
import asyncio, pathlib, sys
from broker_master.ca.mesh import open_mesh
from broker_master.embedded import EmbeddedBroker

async def main():
    broker = EmbeddedBroker(open_mesh(pathlib.Path(sys.argv[1])))
    await broker.start()
    sys.stderr.write(f"{broker.pid} {broker.port}\\n")
    sys.stderr.flush()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def start_master(state: Path) -> tuple["subprocess.Popen[bytes]", int, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(state)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stderr is not None
    pid, port = process.stderr.readline().split()
    return process, int(pid), int(port)


async def test_broker_ends_when_its_master_is_killed(tmp_path: Path) -> None:
    init_mesh(tmp_path)
    process, pid, port = start_master(tmp_path)
    with process:
        assert is_alive(pid)
        process.kill()
        process.wait(60)
    try:
        await eventually(lambda: not is_alive(pid))
    finally:
        kill(pid)
    assert is_port_free("127.0.0.1", port)


async def test_leftover_that_does_not_end_by_itself_is_ended_first(tmp_path: Path) -> None:
    """A frozen broker does not hear that its master has died; the next master must not give up."""
    mesh = init_mesh(tmp_path)
    process, pid, port = start_master(tmp_path)
    with process:
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait(60)
    assert is_alive(pid)
    broker = EmbeddedBroker(mesh)
    await broker.start()
    try:
        assert broker.port == port
        assert not is_alive(pid)
    finally:
        kill(pid)
        await broker.stop()


async def test_process_that_got_the_old_pid_is_left_alone(tmp_path: Path) -> None:
    mesh = init_mesh(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (mesh.broker_directory / "nats.pid").write_text(str(stranger.pid))
        broker = EmbeddedBroker(mesh)
        await broker.start()
        await broker.stop()
        assert stranger.poll() is None
        stranger.kill()


async def test_taken_port_is_named_and_no_other_is_chosen(tmp_path: Path) -> None:
    mesh = init_mesh(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        fault = await fault_of(EmbeddedBroker(mesh, port=port))
        assert fault.code == "settings_invalid"
        assert str(port) in fault.message
    assert not (mesh.broker_directory / "port").exists()


async def test_host_of_another_machine_is_named(tmp_path: Path) -> None:
    fault = await fault_of(EmbeddedBroker(init_mesh(tmp_path), host="192.0.2.1", port=5000))
    assert fault.code == "settings_invalid"
    assert "192.0.2.1" in fault.message


async def test_missing_program_is_named(tmp_path: Path) -> None:
    child = ChildSettings(binary=str(tmp_path / "nothing"))
    fault = await fault_of(EmbeddedBroker(init_mesh(tmp_path / "m"), child=child))
    assert fault.code == "settings_invalid"
    assert str(tmp_path / "nothing") in fault.message


async def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    mesh = init_mesh(tmp_path)
    (mesh.broker_directory / "server.pem").write_bytes(b"no certificate")
    fault = await fault_of(EmbeddedBroker(mesh))
    assert fault.code == "broker_unreachable"
    assert "server.pem" in fault.message or "certificate" in fault.message


async def test_ports_are_chosen_outside_the_range_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(choose_port("127.0.0.1") < max(low, 20_001) for _ in range(20))


@pytest.mark.parametrize("is_tuned", [False, True])
def test_server_takes_the_rendered_configuration(tmp_path: Path, is_tuned: bool) -> None:
    """Also with spaces and quotes in the path: an operator's directory may be called anything."""
    mesh = init_mesh(tmp_path / 'a "b" c')
    limit = BrokerLimits(file_store_bytes=1 << 30, sync_always=False, connections=10)
    text = render_config(
        host="0.0.0.0",
        port=4222,
        name="n1",
        files=mesh.broker_files(),
        trust=mesh.broker_trust(),
        limit=limit if is_tuned else None,
    )
    assert ("sync_interval: always" in text) is not is_tuned
    path = tmp_path / "nats.conf"
    path.write_text(text)
    run = subprocess.run(
        [server_binary(), "-t", "-c", str(path)], capture_output=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr


async def test_memory_settings_reach_the_server(tmp_path: Path) -> None:
    child = ChildSettings(go_memory_limit="64MiB", go_gc="50")
    broker = EmbeddedBroker(init_mesh(tmp_path), child=child)
    await broker.start()
    try:
        environment = Path(f"/proc/{broker.pid}/environ").read_bytes().split(b"\0")
        assert {b"GOMEMLIMIT=64MiB", b"GOGC=50"} <= set(environment)
        assert not any(item.startswith(b"MESH_") for item in environment)
    finally:
        await broker.stop()


async def test_many_batches_may_be_open_at_once(running: MeshBroker) -> None:
    """With the server's own ceiling of 50 per stream a second master's commits would fail."""
    connection = await connect_raw(running.issue("master", "master-1"))
    stream = StreamConfig(name="S", subjects=["s.*"], allow_atomic=True)
    await connection.jetstream().add_stream(stream)
    for number in range(200):
        headers = {"Nats-Batch-Id": f"b{number}", "Nats-Batch-Sequence": "1"}
        answer = await connection.request(f"s.{number}", b"x", headers=headers, timeout=60)
        assert b"error" not in answer.data
    await connection.close()
