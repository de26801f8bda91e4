"""Proofs of possession of the keys in a request for a certificate."""

from broker_client.runtime.identity import NewIdentity
from broker_client.runtime.nkeys import KeyPair
from broker_client.runtime.tls import sign_text
from schemas.messages.renewal import Purpose, RenewalRequest, key_proof_text, proof_text


def renewal_request(
    name: str, keys: NewIdentity, *, cert_pem: bytes, key_pem: bytes
) -> RenewalRequest:
    """Return a request for a certificate for `keys`, signed by the key of the one in use.

    Takes milliseconds of CPU. Raises Corrupt if `key_pem` is damaged.
    """
    text = proof_text(name, keys.user, keys.csr_pem)
    return RenewalRequest(
        csr_pem=keys.csr_pem.decode(),
        user_nkey=keys.user,
        cert_pem=cert_pem.decode("ascii", "replace"),
        signature=sign_text(key_pem, text),
        user_signature=KeyPair.from_seed(keys.seed).sign(text),
    )


def key_proof(purpose: Purpose, mesh: str, name: str, keys: NewIdentity) -> bytes:
    """Return the signature of the new broker key, for this mesh, name and purpose only."""
    text = key_proof_text(purpose, mesh, name, keys.user, keys.csr_pem)
    return KeyPair.from_seed(keys.seed).sign(text)
