"""One mesh in a master's state directory: `broker-master init` makes it, `serve` opens it.

    mesh.toml            which mesh this is, and under which hosts its broker is reached
    ca/                  ca.pem, ca.key, trusted.pem; see `authorities`
    nats/                *.nk (keys), *.jwt (tokens)
    broker/              server.pem, server.key, and what the broker keeps
    master/, system/     the master's own two identities
    contexts/admin.toml  the first client, its files in contexts/admin/

Each step keeps whole files, so that the next init completes an interrupted one.
"""

import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from broker_client.runtime import failpoints
from broker_client.runtime.context import Context, read_context, write_context
from broker_client.runtime.files import (
    lock_directory,
    make_private_directory,
    os_errors,
    read_bytes,
    read_text,
    write_private,
    write_public,
)
from broker_client.runtime.identity import (
    CA_FILE,
    CERT_FILE,
    NewIdentity,
    new_identity,
    read_identity,
    write_identity,
)
from broker_client.runtime.tls import certificate_facts, make_csr, new_private_key
from broker_master.broker_config import BrokerFiles, BrokerTrust
from broker_master.ca.accounts import Accounts
from broker_master.ca.authorities import Authorities
from broker_master.ca.authority import BACKDATE_S, certified_hosts, check_host
from broker_master.ca.claims import decode_jwt
from broker_master.ca.issuer import CLIENT_LIFETIME_S, Credentials, Issuer
from broker_master.ca.marker import Marker, make_marker, read_marker, refuse_foreign
from schemas.addresses import host_fault
from schemas.faults import Corrupt, MeshError, Refused
from schemas.spans import DAY_S

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1")
DEFAULT_PORT: Final = 4222
ADMIN: Final = "admin"
# Beside the admin's files, until a master has started: keys of its earlier credentials, to be
# refused.
SOLE_FILE: Final = "sole"
# The broker and the master renew theirs after half of the lifetime.
OWN_LIFETIME_S: Final = int(5 * 365 * DAY_S)

Clock = Callable[[], float]


class Renewed(NamedTuple):
    """Which of the mesh's own certificates were renewed."""

    server: bool
    master: bool
    system: bool


class Mesh:
    """An opened mesh. Hold the directory's lock for anything but reading."""

    def __init__(
        self,
        directory: Path,
        marker: Marker,
        authority: Authorities,
        accounts: Accounts,
        now: Clock,
    ) -> None:
        self.directory = directory.absolute()
        self.marker = marker
        self.authority = authority
        self.accounts = accounts
        self.now = now
        self.issuer = Issuer(authority, accounts, now=now)

    @property
    def id(self) -> str:
        return self.marker.mesh

    @property
    def broker_directory(self) -> Path:
        return self.directory / "broker"

    @property
    def master_directory(self) -> Path:
        """Folder of the identity with which the master joins the mesh's account."""
        return self.directory / "master"

    @property
    def system_directory(self) -> Path:
        """Folder of the identity that may update the account and disconnect connections."""
        return self.directory / "system"

    @property
    def admin_context(self) -> Path:
        return self.directory / "contexts" / f"{ADMIN}.toml"

    def urls(self, port: int) -> tuple[str, ...]:
        """Addresses of the broker for agents: the hosts given to init, or this machine alone."""
        # Meshes of 0.1.0 may have invalid hosts.
        hosts = [host for host in self.marker.hosts if not host_fault(host)] or ["127.0.0.1"]
        return tuple(broker_url(host, port) for host in hosts)

    def check_certified(self, urls: Sequence[str]) -> None:
        """Raise Refused (`settings_invalid`) if the broker's certificate lacks a host of these."""
        known = {host.lower() for host in (*LOCAL_HOSTS, *self.marker.hosts)}
        for url in urls:
            host = urlsplit(url).hostname or ""
            if host.lower() not in known:
                raise Refused(
                    "settings_invalid",
                    f"urls: the broker's certificate does not name {host}:"
                    f" broker-master init --state-dir {self.directory} --host {host}",
                )

    def broker_files(self) -> BrokerFiles:
        folder = self.broker_directory
        return BrokerFiles(
            ca=self.authority.trusted_file,
            cert=folder / "server.pem",
            key=folder / "server.key",
            resolver=folder / "resolver",
            store=folder / "jetstream",
        )

    def broker_trust(self) -> BrokerTrust:
        accounts = self.accounts
        return BrokerTrust(
            operator_jwt=accounts.operator_jwt,
            system_account=accounts.system_account,
            accounts={
                accounts.system_account: accounts.system_jwt,
                accounts.account: accounts.account_jwt,
            },
        )


def broker_url(host: str, port: int) -> str:
    return f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"


def init_mesh(
    directory: Path,
    hosts: Sequence[str] = (),
    *,
    dropped: Sequence[str] = (),
    is_admin_new: bool = False,
    now: Clock = time.time,
) -> Mesh:
    """Make a mesh in `directory`, or complete and open the one that is there.

    hosts: names and addresses under which agents reach the broker, besides this machine; hosts of
    earlier calls stay, except those in `dropped`. is_admin_new: the first client gets new
    credentials, and once a master has started its earlier ones are refused. Takes the directory's
    lock. Raises Refused: `state_foreign` for a foreign directory, `state_locked`,
    `state_unreadable`, `disk_full`, `settings_invalid` for a host; Corrupt (`state_corrupt`).
    """
    checked = [check_host(host) for host in hosts]
    refuse_foreign(directory)
    make_private_directory(directory)
    with lock_directory(directory), os_errors(directory, "open"):
        marker = make_marker(directory, checked, dropped)
        authority = Authorities.create(directory / "ca", marker.mesh, now=int(now()))
        accounts = Accounts.create(directory / "nats", mesh=marker.mesh, now=int(now()))
        mesh = Mesh(directory, marker, authority, accounts, now)
        renew_own(mesh)
        _make_admin(mesh, is_new=is_admin_new)
        return mesh


def open_mesh(directory: Path, *, now: Clock = time.time, renews: bool = True) -> Mesh:
    """Open the mesh of a finished init; renews the broker's and the master's own certificates.

    The caller holds the directory's lock, unless it renews nothing. Raises as `init_mesh`, and
    `state_missing` without init.
    """
    refuse_foreign(directory)
    marker = read_marker(directory)
    if marker is None:
        raise Refused("state_missing", f"there is no mesh in {directory}")
    with os_errors(directory, "open"):
        authority = Authorities.load(directory / "ca", marker.mesh)
        accounts = Accounts.load(directory / "nats", mesh=marker.mesh, now=int(now()))
        mesh = Mesh(directory, marker, authority, accounts, now)
        read_text(mesh.admin_context)
        if renews:
            renew_own(mesh)
    return mesh


def open_beside(directory: Path) -> Mesh:
    """Open a mesh beside its master. Without a running master its own certificates are renewed."""
    refuse_foreign(directory)  # before a lock is left in another's folder
    if read_marker(directory) is None:
        raise Refused("state_missing", f"there is no mesh in {directory}")
    try:
        lock = lock_directory(directory)
    except Refused as error:
        if error.code != "state_locked":
            raise
        return open_mesh(directory, renews=False)
    try:
        return open_mesh(directory)
    finally:
        lock.release()


def update_context_urls(directory: Path, urls: Sequence[str]) -> None:
    """Write these addresses into every context of the directory; no write if they are there."""
    folder = directory / "contexts"
    with os_errors(folder, "list"):
        paths = sorted(folder.glob("*.toml"))
    for path in paths:
        context = _plain_context(path)
        if context.urls != tuple(urls):
            write_context(path, msgspec.structs.replace(context, urls=tuple(urls)))


def renew_own(mesh: Mesh) -> Renewed:
    """Renew the broker's and the master's own certificates where due; returns the renewed ones.

    Due: half of the lifetime is over, another authority or signing key is in force now, or the
    broker's certificate lacks a host.
    """
    issue = mesh.issuer
    server = _renew_server(mesh)
    master = _renew_identity(mesh, mesh.master_directory, "master", issue.issue_master)
    system = _renew_identity(mesh, mesh.system_directory, "master-system", issue.issue_system)
    return Renewed(server, master, system)


def _renew_server(mesh: Mesh) -> bool:
    folder = mesh.broker_directory
    make_private_directory(folder)
    hosts = tuple(dict.fromkeys((*LOCAL_HOSTS, *mesh.marker.hosts)))
    cert, key = folder / "server.pem", folder / "server.key"
    if cert.exists() and key.exists():
        pem = read_bytes(cert)
        if set(hosts) <= set(certified_hosts(pem)) and not _is_due(mesh, pem):
            return False
    now = int(mesh.now())
    key_pem = read_bytes(key) if key.exists() else new_private_key()
    write_private(key, key_pem)
    signed = mesh.authority.active.sign_server(
        make_csr("broker", key_pem),
        hosts,
        not_before=now - BACKDATE_S,
        not_after=min(now + OWN_LIFETIME_S, mesh.authority.not_after),
    )
    failpoints.reach("master.server_signed")
    write_public(cert, signed)
    return True


def _is_due(mesh: Mesh, cert_pem: bytes) -> bool:
    """Whether half of its lifetime is over, or another authority signs now."""
    facts = certificate_facts(cert_pem)
    half = (facts.not_before + facts.not_after) / 2
    return mesh.now() > half or not mesh.authority.active.has_signed(cert_pem)


def _renew_identity(
    mesh: Mesh, folder: Path, name: str, issue: Callable[[str, bytes, str, int], Credentials]
) -> bool:
    if _is_whole(folder) and not _is_due(mesh, read_bytes(folder / CERT_FILE)):
        role = "system" if folder == mesh.system_directory else "master"
        signed_by = decode_jwt(read_identity(folder).creds.jwt)["iss"]
        if signed_by == mesh.accounts.signing_key(role).public:
            _trust(mesh, folder)
            return False
    keys = new_identity(name)
    not_after = int(mesh.now()) + OWN_LIFETIME_S
    _write(folder, keys, issue(name, keys.csr_pem, keys.user, not_after))
    return True


def _trust(mesh: Mesh, folder: Path) -> None:
    """Write the trusted authorities into a folder of the mesh's own identities."""
    path = folder / CA_FILE
    if read_bytes(path) != mesh.authority.ca_pem:
        write_public(path, mesh.authority.ca_pem)


def _is_whole(folder: Path) -> bool:
    try:
        read_identity(folder)
    except Corrupt:
        return False
    except MeshError as error:
        if error.code == "state_missing":
            return False
        raise
    return True


def _make_admin(mesh: Mesh, *, is_new: bool) -> None:
    """Make the first client; a user who may run init may renew its credentials."""
    folder = mesh.directory / "contexts" / ADMIN
    make_private_directory(folder.parent)
    if is_new or not _is_whole(folder) or _is_due(mesh, read_bytes(folder / CERT_FILE)):
        if is_new:
            write_private(folder / SOLE_FILE, b"")
        keys = new_identity(ADMIN)
        not_after = int(mesh.now()) + CLIENT_LIFETIME_S
        _write(folder, keys, mesh.issuer.issue("admin", ADMIN, keys.csr_pem, keys.user, not_after))
    if not mesh.admin_context.exists():
        context = Context(
            mesh=mesh.id,
            name=ADMIN,
            role="admin",
            urls=mesh.urls(DEFAULT_PORT),
            ca=f"{ADMIN}/ca.pem",
            cert=f"{ADMIN}/cert.pem",
            key=f"{ADMIN}/key.pem",
            creds=f"{ADMIN}/user.creds",
        )
        write_context(mesh.admin_context, context)


def _write(folder: Path, keys: NewIdentity, issued: Credentials) -> None:
    write_identity(folder, keys, cert_pem=issued.cert_pem, ca_pem=issued.ca_pem, jwt=issued.jwt)


def _plain_context(path: Path) -> Context:
    """A context with its paths as the file has them."""
    read_context(path)
    return msgspec.convert(tomllib.loads(read_text(path)), Context)


def certificate_ends(mesh: Mesh) -> dict[str, float]:
    """Ends of the certificates that `init` and each start renew: the broker's and the master's."""
    files = {
        "broker": mesh.broker_directory / "server.pem",
        "master": mesh.master_directory / "cert.pem",
    }
    return {
        name: float(certificate_facts(read_bytes(file)).not_after) for name, file in files.items()
    }
