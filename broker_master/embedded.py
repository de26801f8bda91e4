"""The broker below a master: a nats-server child, started, supervised and ended with it."""

import asyncio
import contextlib
import os
import random
from asyncio.subprocess import Process
from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.files import os_errors, read_text, write_private
from broker_master.broker_child import (
    STEP_S,
    child_environment,
    choose_port,
    end_leftover,
    find_server,
    is_port_free,
    launch_command,
)
from broker_master.broker_config import BrokerLimits, render_config
from broker_master.ca.mesh import Mesh, broker_url
from schemas.faults import MeshError, Refused, Unreachable

READY_S: Final = 60.0  # a large store is read before the server listens
STOP_S: Final = 10.0
PORT_FREE_S: Final = 2.0
STEADY_S: Final = 30.0
BACKOFF_CAP_S: Final = 5.0
LOG_TAIL_BYTES: Final = 8 * 1024

log = structlog.get_logger(__name__)


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the broker's child process.

    binary: an own nats-server. go_memory_limit, go_gc: its runtime's GOMEMLIMIT and GOGC.
    """

    binary: str = ""
    go_memory_limit: str = ""
    go_gc: str = ""


class EmbeddedBroker:
    """A service. Its files are below `<state>/broker`; the caller holds the state's lock.

    port: 0 for any free one, chosen once and kept in the file `port`, because agents know it.
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        child: ChildSettings | None = None,
        limit: BrokerLimits | None = None,
    ) -> None:
        self.name = "broker"
        self.restarts = 0
        self._mesh = mesh
        self._host = host
        self._port = port
        self._child = child or ChildSettings()
        self._limit = limit or BrokerLimits()
        self._folder = mesh.broker_directory
        self._process: Process | None = None
        self._log_start = 0
        self._operator_jwt = ""
        self._is_replaced = False
        self._up = asyncio.Event()

    @property
    def port(self) -> int:
        """Port on which it listens; 0 before the first start if any port would do."""
        return self._port

    @property
    def url(self) -> str:
        """Address for clients on this machine."""
        is_any = self._host in ("0.0.0.0", "::", "")  # noqa: S104  compared, not bound
        return broker_url("127.0.0.1" if is_any else self._host, self._port)

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def is_outdated(self) -> bool:
        """Whether it was started with another operator token than the mesh has now."""
        return self._operator_jwt != self._mesh.accounts.operator_jwt

    @property
    def log_file(self) -> Path:
        return self._folder / "nats.log"

    async def run(self, ready: asyncio.Event) -> None:
        """Start the child, supervise it, end it. Once ready, a child that ends is started again."""
        try:
            await self.start()
            ready.set()
            await self._keep_running()
        finally:
            await self.stop()

    async def start(self, *, ready_s: float = READY_S) -> None:
        """Start the child and wait until clients can connect.

        Raises Refused (`settings_invalid`: no program, port taken; `state_unreadable`,
        `disk_full`) or Unreachable (`broker_unreachable`) with the server's own last words.
        """
        binary = find_server(self._child.binary)
        if await end_leftover(self._folder / "nats.pid", self._config_file):
            log.info("leftover_broker_ended")
        await self._choose_port()
        await self._launch(binary, ready_s)

    async def stop(self) -> None:
        """End the child in order, or by force after `STOP_S`; returns when it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            log.warning("broker_killed", pid=process.pid, after_s=STOP_S)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def restart(self) -> None:
        """End the child and start another one with the present configuration; returns when it runs.

        `run` starts it. Raises Unreachable (`broker_unreachable`) if it is not ready in `READY_S`;
        `run` goes on trying.
        """
        self._up.clear()
        self._is_replaced = True
        await self.stop()
        try:
            async with asyncio.timeout(READY_S):
                await self._up.wait()
        except TimeoutError as error:
            message = f"the broker was not ready in {READY_S:g} s: see {self.log_file}"
            raise Unreachable("broker_unreachable", message) from error

    @property
    def _config_file(self) -> Path:
        return (self._folder / "nats.conf").absolute()

    async def _keep_running(self) -> None:
        backoff = Backoff(random.SystemRandom().random, cap_s=BACKOFF_CAP_S)
        clock = asyncio.get_running_loop()
        while True:
            started = clock.time()
            process = self._process
            if process is not None:
                code = await process.wait()
                if not self._is_replaced:
                    log.error("broker_ended", pid=process.pid, code=code, said=self._last_words())
            if clock.time() - started > STEADY_S:
                backoff.reset()
            if not self._is_replaced:
                await asyncio.sleep(backoff.next_s())
                self.restarts += 1
            self._is_replaced = False
            try:
                await self._launch(find_server(self._child.binary), READY_S)
            except MeshError as error:
                log.error("broker_not_restarted", code=error.code, reason=error.message)  # noqa: TRY400

    async def _choose_port(self) -> None:
        path = self._folder / "port"
        remembered = _read_port(path)
        port = self._port or remembered or choose_port(self._host)
        # The holder of the port may be an earlier broker on its way out.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PORT_FREE_S):
                while not is_port_free(self._host, port):  # noqa: ASYNC110  no event to await
                    await asyncio.sleep(STEP_S)
        if not is_port_free(self._host, port):
            raise self._port_taken(port)
        if port != remembered:
            write_private(path, f"{port}\n".encode())
        self._port = port

    def _port_taken(self, port: int) -> Refused:
        return Refused("settings_invalid", f"nats_port: {port} of {self._host} is in use")

    async def _launch(self, binary: Path, ready_s: float) -> None:
        self._write_config()
        for old in self._folder.glob("*.ports"):
            old.unlink(missing_ok=True)
        self._log_start = _size(self.log_file)
        output = self._folder / "nats.out"
        with os_errors(output, "write"), output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *launch_command(binary, self._config_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=child_environment(
                    go_memory_limit=self._child.go_memory_limit, go_gc=self._child.go_gc
                ),
                # Ctrl-C at a terminal is for the master, which then ends the broker in its turn.
                start_new_session=True,
            )
        self._process = process
        try:
            await self._wait_ready(process, ready_s)
        except BaseException:
            await self.stop()
            raise
        self._up.set()
        log.info("broker_started", pid=process.pid, port=self._port)

    async def _wait_ready(self, process: Process, ready_s: float) -> None:
        """Wait for the server's ports file, written when it listens: no other one can deceive."""
        try:
            async with asyncio.timeout(ready_s):
                while not any(self._folder.glob(f"*_{process.pid}.ports")):
                    if process.returncode is not None:
                        raise self._start_fault()
                    await asyncio.sleep(STEP_S)
        except TimeoutError as error:
            message = f"the broker was not ready in {ready_s:g} s: see {self.log_file}"
            raise Unreachable("broker_unreachable", message) from error

    def _start_fault(self) -> MeshError:
        words = self._last_words()
        if "address already in use" in words:
            return self._port_taken(self._port)
        return Unreachable(
            "broker_unreachable", f"the broker did not start: {words} (see {self.log_file})"
        )

    def _last_words(self) -> str:
        """The last line in which the server gave the reason of its end, if any."""
        lines = _tail(self.log_file, self._log_start) + _tail(self._folder / "nats.out")
        told = [
            line for line in lines if "[FTL]" in line or "[ERR]" in line or "nats-server:" in line
        ]
        return (told or lines or ["it said nothing"])[-1].strip()[-300:]

    def _write_config(self) -> None:
        folder = self._folder.absolute()
        files = msgspec.structs.replace(
            self._mesh.broker_files(),
            log=folder / "nats.log",
            pid=folder / "nats.pid",
            ports=folder,
        )
        trust = self._mesh.broker_trust()
        self._operator_jwt = trust.operator_jwt
        text = render_config(
            host=self._host,
            port=self._port,
            name=f"mesh-{self._mesh.id}",
            files=files,
            trust=trust,
            limit=self._limit,
        )
        write_private(self._config_file, text.encode())


def _read_port(path: Path) -> int:
    if not path.exists():
        return 0
    text = read_text(path).strip()
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65_536):
        raise Refused("settings_invalid", f"{path} holds no port: remove it to have one chosen")
    return int(text)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tail(path: Path, start: int = 0) -> list[str]:
    """The last lines of a file, none from before `start` unless the file was truncated."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
