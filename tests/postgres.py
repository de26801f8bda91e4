"""A real PostgreSQL server for the kind `postgresql`, in a folder of its own."""

import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from broker_master.broker_child import choose_port
from tests.requirements_policy import require
from tests.waiting import PATIENCE_S

PASSWORD = "correct-horse/battery staple"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "80",
    "ssl": "on",
    "timezone": "UTC",
}


class PostgresServer(NamedTuple):
    """ca: file of the authority of its certificate. The user `mesh` has all rights of an owner."""

    port: int
    folder: Path
    ca: str
    bin: Path

    def profile(self, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
        """Settings of a profile for it."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "database": "shop",
            "user": "mesh",
            "password": {"plain": PASSWORD},
            "tls": "off",
            **settings,
        }

    def psql(self, sql: str, *options: str) -> bytes:
        """Output of psql, as the superuser."""
        command = [str(self.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, "-c", sql]
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "root", "-d", "shop"]
        return subprocess.run(
            [*command, *where], check=True, capture_output=True, timeout=PATIENCE_S
        ).stdout

    def text(self, sql: str) -> str:
        """Values of psql without any decoration."""
        return self.psql(sql, "-A", "-t").decode().strip()


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run one; skips the test where the server is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = programs[-1] if programs else shutil.which("postgres")
    program = Path(found or require("postgres", "apt install postgresql"))
    folder = Path(tempfile.mkdtemp(prefix="mesh-pg-"))
    try:
        with _running(program.parent, folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(programs: Path, folder: Path) -> Iterator[PostgresServer]:
    user = _user()
    uid, gid = pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid
    os.chown(folder, uid, gid)
    folder.chmod(0o755)
    as_user = (
        []
        if user == getpass.getuser()
        else ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    )
    data = folder / "data"
    make = ["-D", str(data), "-U", "root", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
    auth = ["--auth-local=trust", "--auth-host=scram-sha-256"]
    subprocess.run(
        [*as_user, programs / "initdb", *make, *auth],
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
        cwd="/",
    )
    ca = _certificate(data, uid, gid)
    port = choose_port("127.0.0.1")
    options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*as_user, programs / "postgres", "-D", data, "-p", str(port), "-k", folder, *options],
            stdout=log,
            stderr=log,
            cwd="/",
        )
    try:
        server = PostgresServer(port, folder, ca, programs)
        _await_ready(server, process)
        yield server
    finally:
        process.terminate()
        process.send_signal(2)  # fast shutdown
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _user() -> str:
    """The server refuses to run as root."""
    if os.geteuid():
        return getpass.getuser()
    return "postgres"


def _certificate(data: Path, uid: int, gid: int) -> str:
    key, cert = data / "server.key", data / "server.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "3650", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    for each in (key, cert):
        os.chown(each, uid, gid)
    key.chmod(0o600)
    kept = data.parent / "ca.pem"
    shutil.copy(cert, kept)
    return str(kept)


def _await_ready(server: PostgresServer, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + PATIENCE_S
    where = ["-h", str(server.folder), "-p", str(server.port), "-U", "root", "-d", "postgres"]
    setup = [
        f"create role mesh login password '{PASSWORD}'",
        "create database shop owner mesh",
    ]
    while True:
        command = [str(server.bin / "psql"), "-X", "-q", *where, "-c", "select 1"]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            break
        assert process.poll() is None, (server.folder / "log").read_text()
        assert time.monotonic() < until, "PostgreSQL has not started"
        time.sleep(0.05)
    for sql in setup:
        subprocess.run(
            [str(server.bin / "psql"), "-X", "-q", *where, "-c", sql],
            check=True,
            capture_output=True,
        )
