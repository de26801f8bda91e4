import ssl
import tempfile
import time
from pathlib import Path

import pytest

from broker_client.runtime.tls import (
    certificate_facts,
    client_context,
    client_context_of,
    make_csr,
    new_private_key,
)
from broker_master.ca.authority import Authority
from schemas.faults import Corrupt, MeshError

NOW = int(time.time())


def issued(authority: Authority, name: str = "web-1") -> tuple[bytes, bytes]:
    key = new_private_key()
    cert = authority.sign_client(
        make_csr(name, key), "agent", name, not_before=NOW - 60, not_after=NOW + 86_400
    )
    return cert, key


def served(authority: Authority, *hosts: str) -> ssl.SSLContext:
    key = new_private_key()
    cert = authority.sign_server(
        make_csr("broker", key), hosts, not_before=NOW - 60, not_after=NOW + 86_400
    )
    return server_context(authority, cert, key)


def server_context(authority: Authority, cert: bytes, key: bytes) -> ssl.SSLContext:
    """A server that shows `cert`, borrowed from a client's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.ca_pem.decode())
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "cert"), Path(folder, "key")
        for path, pem in zip(paths, (cert, key), strict=True):
            path.write_bytes(pem)
        context.load_cert_chain(*paths)
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> str:
    """Run a handshake in memory; returns the TLS version."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(5):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version() or ""


def test_agent_and_broker_of_one_mesh_agree() -> None:
    authority = Authority.create("m1", now=NOW)
    client = client_context_of(authority.ca_pem, *issued(authority))
    for host in ("broker.example", "127.0.0.1", "::1"):
        assert shake_hands(client, served(authority, host), host) == "TLSv1.3"


def test_broker_under_another_name_is_refused() -> None:
    authority = Authority.create("m1", now=NOW)
    client = client_context_of(authority.ca_pem, *issued(authority))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(client, served(authority, "broker.example"), "other.example")


def test_agent_cannot_pose_as_the_broker() -> None:
    authority = Authority.create("m1", now=NOW)
    client = client_context_of(authority.ca_pem, *issued(authority))
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(client, server_context(authority, *issued(authority, "localhost")), "localhost")


def test_old_protocol_versions_are_not_offered() -> None:
    authority = Authority.create("m1", now=NOW)
    client = client_context_of(authority.ca_pem, *issued(authority))
    assert client.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client.verify_mode is ssl.CERT_REQUIRED
    assert client.check_hostname


def test_missing_damaged_and_unfitting_files_have_their_faults(tmp_path: Path) -> None:
    authority = Authority.create("m1", now=NOW)
    cert, key = issued(authority)
    paths = ca_file, cert_file, key_file = [tmp_path / name for name in ("ca", "cert", "key")]

    def fault(*pems: bytes) -> str:
        for path, pem in zip(paths, pems, strict=True):
            path.write_bytes(pem)
        try:
            client_context(ca_file, cert_file, key_file)
        except MeshError as error:
            return error.code
        return ""

    assert fault(authority.ca_pem, cert, key) == ""
    assert fault(authority.ca_pem, cert, new_private_key()) == "state_corrupt"
    assert fault(authority.ca_pem, cert[:100], key) == "state_corrupt"
    assert fault(b"", cert, key) == "state_corrupt"
    assert fault(authority.ca_pem, cert, b"\0\xff") == "state_corrupt"
    key_file.unlink()
    with pytest.raises(MeshError) as caught:
        client_context(ca_file, cert_file, key_file)
    assert caught.value.code == "state_missing"
    assert str(key_file) in caught.value.message


def test_encrypted_key_is_refused_without_asking_the_terminal(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    authority = Authority.create("m1", now=NOW)
    cert, key = issued(authority)
    locked = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    )
    with pytest.raises(Corrupt):
        client_context_of(authority.ca_pem, cert, locked)
    with pytest.raises(Corrupt):
        make_csr("web-1", locked)


def test_context_from_memory_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    authority = Authority.create("m1", now=NOW)
    client_context_of(authority.ca_pem, *issued(authority))
    assert list(tmp_path.iterdir()) == []


def test_certificate_facts_are_whole_seconds_and_hex() -> None:
    authority = Authority.create("m1", now=NOW)
    facts = certificate_facts(issued(authority)[0])
    assert (facts.name, facts.not_before, facts.not_after) == ("web-1", NOW - 60, NOW + 86_400)
    assert facts.serial == facts.serial.lower().lstrip("0")
    assert int(facts.serial, 16) > 0
    with pytest.raises(Corrupt):
        certificate_facts(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
