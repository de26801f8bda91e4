"""A nats-server in a container, with the handle of a child process.

`MESH_TEST_BROKERS` says where plain brokers of tests run: `native` (a binary of this machine),
`containers` (an engine must answer), or `auto`, the default: native where there is a binary, else
a container where an engine answers. The engine is found as testcontainers finds it (DOCKER_HOST).
The container has the host's network and the server's own directory, so that ports, files and
restarts are the same in both.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import msgspec
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

WISH: Final = "MESH_TEST_BROKERS"
WISHES: Final = ("auto", "native", "containers")
IMAGE: Final = os.environ.get("MESH_TEST_NATS_IMAGE", "nats:2.15.1-alpine")
ENGINE_S: Final = 2
GONE_S: Final = 60.0
STEP_S: Final = 0.01
_ENDED: Final = frozenset({"exited", "dead", "removing"})


class Process(Protocol):
    """Of `subprocess.Popen`, what a broker of a test is handled with."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class _State(msgspec.Struct, rename="pascal"):
    status: str
    pid: int
    exit_code: int


class _Attributes(msgspec.Struct, rename="pascal"):
    state: _State


class ContainerProcess:
    """One container from its start to its removal; `kill` and `wait` are those of a process."""

    def __init__(self, arguments: Sequence[str], directory: Path) -> None:
        # Each container is removed here; nothing else has to be fetched to do so.
        testcontainers_config.ryuk_disabled = True
        folder = str(directory)
        self._container = (
            DockerContainer(
                IMAGE,
                entrypoint="nats-server",
                network_mode="host",
                user=f"{os.geteuid()}:{os.getegid()}",
            )
            .with_command([*arguments])
            .with_volume_mapping(folder, folder, "rw")
        )
        self._code: int | None = None
        self._container.start()

    @property
    def pid(self) -> int:
        return self._inspected().state.pid

    def poll(self) -> int | None:
        if self._code is None:
            state = self._inspected().state
            if state.status in _ENDED:
                self._code = state.exit_code
                self._container.stop()
        return self._code

    def send_signal(self, sig: int, /) -> None:
        self._container.get_wrapped_container().kill(signal=signal.Signals(sig).name)

    def kill(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        give_up_at = time.monotonic() + (GONE_S if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > give_up_at:
                raise subprocess.TimeoutExpired("container", timeout or GONE_S)
            time.sleep(STEP_S)
        return code

    def _inspected(self) -> _Attributes:
        container = self._container.get_wrapped_container()
        container.reload()
        return msgspec.convert(container.attrs, _Attributes)


@cache
def engine_answers() -> bool:
    """Whether a container engine answers a ping within `ENGINE_S`."""
    try:
        return bool(DockerClient(timeout=ENGINE_S).client.ping())
    except Exception:  # noqa: BLE001  whatever the library makes of no engine
        return False


def choose(wish: str, *, has_binary: bool, has_engine: bool) -> str:
    """Where brokers run: `native`, `container`, or empty if neither is there as wished."""
    if wish not in WISHES:
        raise ValueError(f"{WISH} is one of {', '.join(WISHES)}, not {wish}")
    if has_binary and wish != "containers":
        return "native"
    return "container" if has_engine and wish != "native" else ""
