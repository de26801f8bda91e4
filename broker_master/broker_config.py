"""Renders nats-server.conf: for the broker below a master, and for an operator's own server.

The configuration is part of the mesh's guarantees: authentication, durability after a power cut,
detection of dead connections. Everything else has the server's defaults.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.files import (
    make_private_directory,
    read_bytes,
    write_private,
    write_public,
)
from schemas import limits

# An atomic batch is one group commit of a master: the server's own ceilings, 50 batches per stream
# and 1000 in all, are reached by many writers. Source: the server's reference, jetstream.limits.
BATCHES_PER_STREAM: Final = 1000
BATCHES_TOTAL: Final = 4000
BATCH_MESSAGES: Final = 1000
# Of TLS 1.2 those with forward secrecy and authenticated encryption; all of TLS 1.3 are such.
# Source: RFC 9325, section 4.2.
CIPHER_SUITES: Final = [
    f"TLS_ECDHE_{key}_WITH_{cipher}"
    for cipher in ("AES_256_GCM_SHA384", "AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256")
    for key in ("ECDSA", "RSA")
]
LOG_FILE_BYTES: Final = 16 * 1024 * 1024
LOG_FILES: Final = 3


class BrokerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of a broker's identity and state; the last three may be left out."""

    ca: Path
    cert: Path
    key: Path
    resolver: Path
    store: Path
    log: Path | None = None
    pid: Path | None = None
    ports: Path | None = None


class BrokerTrust(msgspec.Struct, frozen=True, kw_only=True):
    """Trust anchors of a broker. accounts: public account key -> its token at the first start."""

    operator_jwt: str
    system_account: str
    accounts: Mapping[str, str]


class BrokerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a broker's storage.

    sync_always: acknowledged writes survive a power cut; else the last two minutes may not.
    file_store_bytes: the most that streams may take on disk; None: the server's default.
    """

    connections: int = 20_000
    file_store_bytes: int | None = None
    sync_always: bool = True


def render_config(
    *,
    host: str,
    port: int,
    name: str,
    files: BrokerFiles,
    trust: BrokerTrust,
    limit: BrokerLimits | None = None,
    monitor: tuple[str, int] | None = None,
) -> str:
    """The text of a nats-server.conf for a broker that listens at `host` and `port`, TLS only.

    monitor: address of its health page, open to every peer.
    """
    limit = limit or BrokerLimits()
    return "\n".join(
        [
            f"server_name: {_text(name)}",
            f"host: {_text(host)}",
            f"port: {port}",
            *_optional(files),
            *([] if monitor is None else [f"http: {_text(f'{monitor[0]}:{monitor[1]}')}"]),
            _tls(files),
            _trust(trust, files),
            _jetstream(files, limit),
            # A dead connection is detected within six seconds.
            'ping_interval: "2s"',
            "ping_max: 2",
            'write_deadline: "4s"',
            f"max_payload: {limits.BROKER_PAYLOAD_BYTES}",
            f"max_connections: {limit.connections}",
            # The shortest period: clients are notified at once, and the remaining ones are cut
            # after it.
            'lame_duck_grace_period: "1s"',
            'lame_duck_duration: "30s"',
            "",
        ]
    )


def with_own_files(files: BrokerFiles, folder: Path) -> BrokerFiles:
    """Copy the files of a broker into its own folder, and return their new paths.

    Source and target may be on different hosts or belong to different users, so nothing is linked.
    """
    make_private_directory(folder)
    own = BrokerFiles(
        ca=folder / "ca.pem",
        cert=folder / "server.pem",
        key=folder / "server.key",
        resolver=folder / "resolver",
        store=folder / "jetstream",
    )
    write_public(own.ca, read_bytes(files.ca))
    write_private(own.key, read_bytes(files.key))
    write_public(own.cert, read_bytes(files.cert))
    return own


def _text(value: str | Path) -> str:
    """A string in double quotes; the server knows the escapes that JSON uses for ASCII."""
    return json.dumps(str(value), ensure_ascii=False)


def _optional(files: BrokerFiles) -> list[str]:
    lines = []
    if files.log is not None:
        lines.append(f"log_file: {_text(files.log)}")
        lines.append(f"logfile_size_limit: {LOG_FILE_BYTES}")
        lines.append(f"logfile_max_num: {LOG_FILES}")
    if files.pid is not None:
        lines.append(f"pid_file: {_text(files.pid)}")
    if files.ports is not None:
        lines.append(f"ports_file_dir: {_text(files.ports)}")
    return lines


def _tls(files: BrokerFiles) -> str:
    return (
        "tls {\n"
        f"  cert_file: {_text(files.cert)}\n"
        f"  key_file: {_text(files.key)}\n"
        f"  ca_file: {_text(files.ca)}\n"
        "  verify: true\n"
        '  min_version: "1.2"\n'
        f"  cipher_suites: {json.dumps(CIPHER_SUITES)}\n"
        "  timeout: 5\n"
        "}"
    )


def _trust(trust: BrokerTrust, files: BrokerFiles) -> str:
    preload = "\n".join(f"  {account}: {token}" for account, token in trust.accounts.items())
    return (
        f"operator: {trust.operator_jwt}\n"
        f"system_account: {trust.system_account}\n"
        # A node that was down during a revocation learns of it within the interval.
        f"resolver {{ type: full, dir: {_text(files.resolver)}, "
        'interval: "5s", allow_delete: false }\n'
        f"resolver_preload {{\n{preload}\n}}"
    )


def _jetstream(files: BrokerFiles, limit: BrokerLimits) -> str:
    lines = [f"  store_dir: {_text(files.store)}"]
    if limit.sync_always:
        lines.append("  sync_interval: always")
    if limit.file_store_bytes is not None:
        lines.append(f"  max_file_store: {limit.file_store_bytes}")
    lines.append(
        f"  limits {{ batch {{ max_inflight_per_stream: {BATCHES_PER_STREAM}, "
        f"max_inflight_total: {BATCHES_TOTAL}, max_msgs: {BATCH_MESSAGES} }} }}"
    )
    return "\n".join(["jetstream {", *lines, "}"])
