"""A real MariaDB server for the kind `mysql`, below a folder of the test."""

import contextlib
import datetime as dt
import getpass
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker_master.broker_child import choose_port
from tests.requirements_policy import require
from tests.waiting import PATIENCE_S

PASSWORD = "tr0ub4dor & 3"
INSTALL = "apt install mariadb-server"


class MariaDb(NamedTuple):
    """ca: file of the authority that signed its certificate for localhost."""

    port: int
    socket: str
    ca: str

    def settings(self, **others: Any) -> Mapping[str, Any]:  # noqa: ANN401
        """Settings of a profile, over TLS, for the user `mesh` of the database `shop`."""
        given = {"host": "localhost", "port": self.port, "ca": self.ca}
        return {**given, "database": "shop", "user": "mesh", **others}

    def root(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as its root; returns the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with contextlib.closing(
            pymysql.connect(unix_socket=self.socket, user="root", autocommit=True)
        ) as connection:
            for statement in statements:
                with connection.cursor() as cursor:
                    cursor.execute(statement)
                    rows = list(cursor.fetchall())
        return rows


@contextlib.contextmanager
def mariadb(folder: Path) -> Iterator[MariaDb]:
    """Run one; skips the test where it is not installed."""
    program = shutil.which("mariadbd", path="/usr/sbin") or require("mariadbd", INSTALL)
    install = require("mariadb-install-db", INSTALL)
    user = getpass.getuser()
    data = folder / "data"
    subprocess.run(
        [install, "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db",
         "--auth-root-authentication-method=normal"],
        check=True, capture_output=True,
    )  # fmt: skip
    ca = write_certificate(folder)
    port, socket = choose_port("127.0.0.1"), f"/tmp/mesh-mariadb-{choose_port('127.0.0.1')}.sock"
    argv = [
        program, "--no-defaults", f"--datadir={data}", f"--user={user}", f"--port={port}",
        f"--socket={socket}", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=32M",
        "--innodb-flush-log-at-trx-commit=0", f"--pid-file={folder}/pid", "--skip-name-resolve=0",
        f"--ssl-cert={folder}/cert.pem", f"--ssl-key={folder}/key.pem", "--max-connections=100",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log)
    running = MariaDb(port, socket, str(ca))
    try:
        _wait_ready(server, running, folder / "log")
        running.root(
            "create database shop character set utf8mb4",
            f"create user mesh@'%' identified by '{PASSWORD}'",
            f"create user mesh@localhost identified by '{PASSWORD}'",
            "grant all on shop.* to mesh@'%'",
            "grant all on shop.* to mesh@localhost",
        )
        yield running
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def _wait_ready(server: "subprocess.Popen[bytes]", running: MariaDb, log: Path) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at and server.poll() is None:
        with contextlib.suppress(pymysql.MySQLError):
            running.root("select 1")
            return
        time.sleep(0.05)
    pytest.fail(f"MariaDB is not ready: {log.read_text()[-2000:]}")


def write_certificate(folder: Path) -> Path:
    """Write a self-signed certificate for localhost, and its key; returns the former's path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem"
