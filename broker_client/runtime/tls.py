"""TLS of one process: its key, its certificate request, its context, facts of certificates.

Keys, requests and certificates travel as PEM bytes. X.509 is imported where it is used: an agent
that is enrolled needs a context only, and the import costs memory for as long as it runs.
"""

import hashlib
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from broker_client.runtime.files import os_errors, write_private
from schemas.faults import Corrupt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

MINIMUM: Final = ssl.TLSVersion.TLSv1_2
# Ciphers of TLS 1.2 with forward secrecy and authenticated encryption (RFC 9325, section 4.2).
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a certificate. serial: lower-case hex. name: common name. Times: whole unix seconds.

    fingerprint: SHA-256 of the certificate, lower-case hex, as reported by brokers.
    """

    serial: str
    name: str
    not_before: int
    not_after: int
    fingerprint: str


def client_context(ca_file: Path, cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """Return a context that trusts `ca_file` only, checks the host's name and has a certificate.

    Raises Refused (`state_missing`, `state_unreadable`) or Corrupt (`state_corrupt`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = MINIMUM
    context.set_ciphers(CIPHERS)
    for path in (ca_file, cert_file, key_file):
        with os_errors(path, "read"), path.open("rb"):
            pass  # the ssl module's own message names no file
    try:
        context.load_verify_locations(cafile=ca_file)
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise Corrupt(
            "state_corrupt", f"not a certificate with its key: {ca_file}, {cert_file}, {key_file}"
        ) from error
    return context


def client_context_of(ca_pem: bytes, cert_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """As `client_context`, from memory; the temporary files for the ssl module are deleted."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        paths = [Path(folder, name) for name in ("ca.pem", "cert.pem", "key.pem")]
        for path, pem in zip(paths, (ca_pem, cert_pem, key_pem), strict=True):
            write_private(path, pem)
        return client_context(*paths)


def _no_password() -> str:
    """Refuse a key with a password; without this the ssl module would prompt on the terminal."""
    return ""


def new_private_key() -> bytes:
    """Make a P-256 key, as unencrypted PKCS 8."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_csr(name: str, key_pem: bytes) -> bytes:
    """Make a certificate request. The issuer uses only its public key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = _load_key(name, key_pem)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM)


def sign_text(key_pem: bytes, text: bytes) -> bytes:
    """Sign `text` by the key of a certificate; raises Corrupt for any other key than P-256.

    A broker cannot get such a signature from TLS, which signs other texts only.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    return _load_key("the certificate in use", key_pem).sign(text, ECDSA(SHA256()))


def _load_key(name: str, key_pem: bytes) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise Corrupt("state_corrupt", f"the private key of {name} is damaged") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise Corrupt("state_corrupt", f"the private key of {name} is of another kind")
    return key


def certificate_facts(cert_pem: bytes) -> CertificateFacts:
    """Return the facts of the first certificate in `cert_pem`; raises Corrupt if there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError as error:
        raise Corrupt("state_corrupt", "not a certificate in PEM") from error
    return CertificateFacts(
        serial=f"{certificate.serial_number:x}",
        name=str(names[0].value) if names else "",
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        fingerprint=certificate.fingerprint(SHA256()).hex(),
    )


def mesh_of(ca_pem: bytes) -> str:
    """Return the mesh id in an authority's certificate; raises Corrupt for another certificate."""
    from cryptography import x509

    try:
        subject = x509.load_pem_x509_certificate(ca_pem).subject
    except ValueError as error:
        raise Corrupt("state_corrupt", "not an authority's certificate in PEM") from error
    names = subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else ""


def trust_digest(ca_pem: bytes) -> str:
    """Return a short digest of trusted authorities, equal for equal bytes."""
    return hashlib.sha256(ca_pem).hexdigest()[:16]
