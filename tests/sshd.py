"""A real SSH server for the kind `sftp`, as this user, with keys of its own."""

import contextlib
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from broker_master.broker_child import choose_port
from tests.requirements_policy import require
from tests.waiting import PATIENCE_S

_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
{subsystem}
LogLevel ERROR
"""


class SshServer(NamedTuple):
    """key: private key of `user`. host_key: public key of the server."""

    port: int
    user: str
    key: str
    host_key: str
    folder: Path


@contextlib.contextmanager
def ssh_server(
    folder: Path, subsystem: str = "Subsystem sftp internal-sftp"
) -> Iterator[SshServer]:
    """Run one below `folder`; skips the test where sshd is not installed."""
    # sshd wants to be started by its whole path, which a user's PATH may lack.
    program = shutil.which("sshd", path="/usr/sbin") or require(
        "sshd", "apt install openssh-server"
    )
    for name in ("host", "client"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    (folder / "authorized").write_text((folder / "client.pub").read_text())
    with contextlib.suppress(PermissionError):
        Path("/run/sshd").mkdir(exist_ok=True)  # where it gives up its rights
    port = choose_port("127.0.0.1")
    (folder / "config").write_text(_CONFIG.format(port=port, folder=folder, subsystem=subsystem))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, "-D", "-e", "-f", folder / "config"], stdout=log, stderr=log
        )
    try:
        _wait_ready(server, port, folder / "log")
        yield SshServer(
            port=port,
            user=getpass.getuser(),
            key=(folder / "client").read_text(),
            host_key=" ".join((folder / "host.pub").read_text().split()[:2]),
            folder=folder,
        )
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def _wait_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    pytest.fail(f"sshd is not ready: {log.read_text()}")
