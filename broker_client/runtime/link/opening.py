"""Opening of a connection: endpoint, identity, and the fault of a failure."""

import os
import re
import ssl
from dataclasses import dataclass
from typing import Any, Final

from broker_client.runtime.nkeys import KeyPair
from schemas.faults import MeshError, Refused, Unreachable

_NUMBER: Final = re.compile(r"\[Errno (\d+)\]")
# Seconds to wait, at the next try, for the reason of a broker that closed without one.
PATIENCE_S: Final = 0.3
_CREDENTIALS: Final = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
    "credentials",
    "certificate required",
    "certificate expired",
    "certificate revoked",
    "bad certificate",
    "unknown ca",
    "unknown_ca",
)


@dataclass(frozen=True, kw_only=True, repr=False)
class LinkIdentity:
    """Identity for the broker: TLS context, user token and the seed of its key, or None each."""

    tls: ssl.SSLContext | None = None
    jwt: str | None = None
    seed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A broker's address. tls_name: name in its certificate, if it is not the host's."""

    url: str
    tls_name: str | None = None


class Untrusted(Unreachable):
    """The peer is not a broker of this mesh; a retry cannot help."""


def credentials(endpoint: Endpoint, identity: LinkIdentity) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if identity.tls is not None:
        options["tls"] = identity.tls
        options["tls_hostname"] = endpoint.tls_name
    if identity.jwt is not None and identity.seed is not None:
        jwt = identity.jwt.strip().encode()
        options["user_jwt_cb"] = lambda: jwt
        options["signature_cb"] = KeyPair.from_seed(identity.seed.strip()).sign_nonce
    return options


def opening_fault(endpoint: Endpoint, error: Exception) -> MeshError:
    if isinstance(error, TimeoutError):
        text = "no answer in time"
    elif isinstance(error, ssl.SSLCertVerificationError):
        return Untrusted(
            "broker_unreachable",
            f"{endpoint.url}: its certificate is not trusted: {error.verify_message}",
            effect="none",
            advice="use an address that the mesh was made for, and the ca.pem of this mesh",
        )
    else:
        text = describe(error)
    return fault_of(f"{endpoint.url}: {text}", text)


def fault_of(message: str, said: str) -> MeshError:
    """Return Refused only for an explicit refusal by the broker, else Unreachable."""
    lower = said.lower().replace("_", " ")
    if any(word in lower for word in _CREDENTIALS):
        return Refused("credentials_rejected", message)
    return Unreachable("broker_unreachable", message)


def describe(error: Exception) -> str:
    """The cause in the system's words: Python's own text repeats its call and the address."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        if error.errno and error.errno < 0:
            return str(error.strerror).lower()
        # A host of several addresses has one error of several numbers.
        numbers = [str(error.errno)] if error.errno else _NUMBER.findall(str(error))
        if numbers:
            return ", ".join(dict.fromkeys(os.strerror(int(each)).lower() for each in numbers))
    text = str(error).removeprefix("nats: ").strip("'")
    return text or type(error).__name__
