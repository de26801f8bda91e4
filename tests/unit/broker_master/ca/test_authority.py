import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from broker_client.runtime.tls import make_csr, new_private_key
from broker_master.ca.authority import Authority, certified_hosts, check_host
from schemas.faults import Corrupt, Refused

NOW = int(time.time())
AUTHORITY = Authority.create("0123456789abcdef", now=NOW)


def signed(csr: bytes, kind: str = "agent", name: str = "web-1") -> x509.Certificate:
    pem = AUTHORITY.sign_client(csr, kind, name, not_before=NOW - 60, not_after=NOW + 99)
    return x509.load_pem_x509_certificate(pem)


def test_certificate_says_who_for_clients_only_and_until_the_very_second() -> None:
    certificate = signed(make_csr("web-1", new_private_key()))
    assert certificate.subject.rfc4514_string() == "CN=web-1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["mesh://0123456789abcdef/agent/web-1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basic.ca
    assert certificate.not_valid_before_utc.timestamp() == NOW - 60
    assert certificate.not_valid_after_utc.timestamp() == NOW + 99
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(AUTHORITY.ca_pem))


def test_nothing_but_the_key_is_taken_from_a_request() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wish = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "master")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker")]), critical=False)
        .sign(key, SHA256())
    )
    certificate = signed(wish.public_bytes(Encoding.PEM))
    assert certificate.subject.rfc4514_string() == "CN=web-1"
    assert certificate.public_key() == key.public_key()
    assert b"broker" not in certificate.public_bytes(Encoding.DER)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_request_with_a_foreign_key_is_refused() -> None:
    """Somebody who saw another's public key must not get a certificate for it."""
    mine, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    points = [
        key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for key in (mine, other)
    ]
    request = x509.load_pem_x509_csr(request_of(mine))
    forged = request.public_bytes(Encoding.DER).replace(points[0], points[1])
    request = x509.load_der_x509_csr(forged)
    assert request.public_key() == other.public_key()
    with pytest.raises(Refused) as caught:
        signed(request.public_bytes(Encoding.PEM))
    assert caught.value.code == "request_invalid"


def request_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_keys_of_other_kinds_are_refused() -> None:
    edwards = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    requests = [
        request_of(rsa.generate_private_key(65537, 2048)),
        request_of(ec.generate_private_key(ec.SECP384R1())),
        edwards.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.PEM),
    ]
    for request in requests:
        with pytest.raises(Refused) as caught:
            signed(request)
        assert caught.value.code == "request_invalid"


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    for request in (
        data,
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + data + b"\n-----END CERTIFICATE REQUEST-----",
    ):
        with pytest.raises(Refused) as caught:
            signed(request)
        assert caught.value.code == "request_invalid"


def test_huge_request_is_refused_unread() -> None:
    with pytest.raises(Refused):
        signed(make_csr("web-1", new_private_key()) + b"\n" * 9000)


def test_authority_is_read_again_and_says_which_mesh_it_is() -> None:
    again = Authority.from_pem(AUTHORITY.ca_pem, AUTHORITY.key_pem)
    assert (again.mesh, again.ca_pem) == ("0123456789abcdef", AUTHORITY.ca_pem)
    certificate = x509.load_pem_x509_certificate(again.ca_pem)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.value.ca, basic.value.path_length, basic.critical) == (True, 0, True)


@pytest.mark.parametrize("damage", ["key", "cert", "other"])
def test_damaged_authority_is_corrupt(damage: str) -> None:
    cert, key = AUTHORITY.ca_pem, AUTHORITY.key_pem
    if damage == "key":
        key = key[:60]
    elif damage == "cert":
        cert = cert[:200]
    else:
        key = Authority.create("x", now=NOW).key_pem
    with pytest.raises(Corrupt):
        Authority.from_pem(cert, key)


def test_server_certificate_names_its_hosts_and_serves_only() -> None:
    hosts = ("localhost", "127.0.0.1", "broker.example", "::1")
    csr = make_csr("broker", new_private_key())
    pem = AUTHORITY.sign_server(csr, hosts, not_before=NOW, not_after=NOW + 99)
    assert certified_hosts(pem) == hosts
    certificate = x509.load_pem_x509_certificate(pem)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


NO_HOSTS = ("", "a b", "*", "*.x", "-a", "a-", "a..b", "tls://x", "x:1", "ä", "a" * 64, "x\n")


@pytest.mark.parametrize("host", NO_HOSTS)
def test_malformed_host_is_refused(host: str) -> None:
    with pytest.raises(Refused) as caught:
        check_host(host)
    assert caught.value.code == "settings_invalid"


def test_hosts_are_written_as_they_are_certified() -> None:
    assert [check_host(h) for h in ("Broker.Example", "::0001", "10.0.0.1")] == [
        "broker.example",
        "::1",
        "10.0.0.1",
    ]
