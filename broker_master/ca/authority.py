"""The mesh's own certificate authority: one self-signed P-256 key, no authority below it.

It signs two kinds of certificates: the broker's (server only) and those of all others (client
only), so that no agent can pose as the broker.
"""

import datetime as dt
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from schemas.addresses import host_fault
from schemas.faults import Corrupt, Refused
from schemas.spans import DAY_S

CA_LIFETIME_S: Final = int(20 * 365 * DAY_S)
# Clocks of hosts differ: a new certificate is valid at a host whose clock is somewhat behind.
BACKDATE_S: Final = 60
CA_BACKDATE_S: Final = int(DAY_S)
CSR_MAX_BYTES: Final = 8 * 1024
_HOST: Final = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]"
                          r"([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)  # fmt: skip


class Authority:
    """A loaded authority; `mesh` is the id of the mesh that its certificate names."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, mesh: str, *, now: int, generation: int = 1) -> Self:
        """Make an authority. generation: part of its name, so that no chain is ambiguous."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, mesh),
                x509.NameAttribute(NameOID.COMMON_NAME, _common_name(mesh, generation)),
            ]
        )
        builder = _builder(name, key.public_key(), now - CA_BACKDATE_S, now + CA_LIFETIME_S)
        builder = builder.issuer_name(name).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, SHA256()), key)

    @classmethod
    def from_pem(cls, cert_pem: bytes, key_pem: bytes) -> Self:
        """Raises Corrupt unless these are an authority's certificate and its key."""
        try:
            certificate = x509.load_pem_x509_certificate(cert_pem)
            key = load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Corrupt("state_corrupt", "the mesh authority's files are damaged") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Corrupt("state_corrupt", "the mesh authority's key is of another kind")
        if certificate.public_key() != key.public_key():
            raise Corrupt("state_corrupt", "the mesh authority's key is not its certificate's")
        return cls(certificate, key)

    @property
    def mesh(self) -> str:
        names = self._certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        return str(names[0].value) if names else ""

    @property
    def ca_pem(self) -> bytes:
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def not_after(self) -> int:
        return int(self._certificate.not_valid_after_utc.timestamp())

    @property
    def serial(self) -> str:
        return f"{self._certificate.serial_number:x}"

    def has_signed(self, cert_pem: bytes) -> bool:
        """Whether this authority has issued a certificate; False if `cert_pem` is none."""
        try:
            x509.load_pem_x509_certificate(cert_pem).verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def sign_client(
        self, csr_pem: bytes, kind: str, name: str, *, not_before: int, not_after: int
    ) -> bytes:
        """Certify that the maker of `csr_pem` is `name`, a checked name, of `kind`.

        Only the public key is taken from the request. Raises Refused (`request_invalid`).
        """
        public = _requested_key(csr_pem)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        identity = x509.UniformResourceIdentifier(_identity(self.mesh, kind, name))
        builder = _builder(subject, public, not_before, not_after)
        return self._sign_leaf(builder, [identity], ExtendedKeyUsageOID.CLIENT_AUTH)

    def client_key(self, cert_pem: bytes, kind: str, name: str) -> ec.EllipticCurvePublicKey:
        """The key of a certificate that this authority has given to `name` of `kind`.

        Raises Refused (`request_invalid`) for any other. Its end is not checked.
        """
        try:
            certificate = x509.load_pem_x509_certificate(cert_pem)
            certificate.verify_directly_issued_by(self._certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            key = certificate.public_key()
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
            raise Refused("request_invalid", "not a certificate of this mesh") from error
        whose = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        if whose != [_identity(self.mesh, kind, name)]:
            raise Refused("request_invalid", f"not a certificate of {kind} {name}")
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Refused("request_invalid", "the certificate's key is not a P-256 key")
        return key

    def sign_server(
        self, csr_pem: bytes, hosts: Sequence[str], *, not_before: int, not_after: int
    ) -> bytes:
        """Certify a broker that is reached as any of `hosts`, names or addresses."""
        public = _requested_key(csr_pem)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
        builder = _builder(subject, public, not_before, not_after)
        names = [_host_name(host) for host in hosts]
        return self._sign_leaf(builder, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def _sign_leaf(
        self,
        builder: x509.CertificateBuilder,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
    ) -> bytes:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            builder.issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
        )
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)


def _common_name(mesh: str, generation: int) -> str:
    return f"mesh {mesh}" if generation == 1 else f"mesh {mesh} {generation}"


def _identity(mesh: str, kind: str, name: str) -> str:
    return f"mesh://{mesh}/{kind}/{name}"


def certified_hosts(cert_pem: bytes) -> tuple[str, ...]:
    """Names and addresses in a broker's certificate."""
    certificate = x509.load_pem_x509_certificate(cert_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def check_host(host: str) -> str:
    """Return `host` in its certified form; Refused unless it is a DNS name or an address."""
    found = str(_host_name(host).value)
    why = host_fault(host)
    if why:
        raise Refused("settings_invalid", f"host {host[:80]!a}: {why}")
    return found


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise Refused(
                "settings_invalid", f"not a host name or address: {host[:80]!a}"
            ) from None
        return x509.DNSName(host.lower())


def requested_digest(csr_pem: bytes) -> str:
    """SHA-256, in hex, of the key that a request is for and signed by; Refused as `sign_client`."""
    return _digest(_requested_key(csr_pem))


def certified_digest(cert_pem: bytes) -> str:
    """SHA-256, in hex, of the key of a certificate."""
    return _digest(x509.load_pem_x509_certificate(cert_pem).public_key())


def _digest(key: CertificatePublicKeyTypes) -> str:
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a request that is signed with it; only P-256, so the check costs little."""
    if len(csr_pem) > CSR_MAX_BYTES:
        raise Refused("request_invalid", f"the request is longer than {CSR_MAX_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        public = request.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise Refused("request_invalid", "the request's key is not a P-256 key")
        if not isinstance(public.curve, ec.SECP256R1):
            raise Refused("request_invalid", "the request's key is not a P-256 key")
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused("request_invalid", "not a request for a certificate") from error
    if not signed:
        raise Refused("request_invalid", "the request is not signed by its own key")
    return public


def _builder(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, not_before: int, not_after: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(not_before, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(not_after, dt.UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
