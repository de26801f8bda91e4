"""The file `user.creds`: a user token and its seed, in the format of all NATS clients."""

import re
from typing import Final

import msgspec

from broker_client.runtime.nkeys import KeyPair, decode_user_jwt
from schemas.faults import Corrupt

_BLOCK: Final = re.compile(
    r"-{3,}BEGIN ([A-Z ]{1,40})-{3,}\s+([A-Za-z0-9_.-]{1,16384}?)\s+-{3,}END \1-{3,}"
)


class UserCreds(msgspec.Struct, frozen=True, kw_only=True):
    """A token and the seed of the key that it names; the seed is kept out of the repr."""

    jwt: str
    seed: str

    def key_pair(self) -> KeyPair:
        return KeyPair.from_seed(self.seed)

    def __repr__(self) -> str:
        return f"UserCreds({decode_user_jwt(self.jwt).name})"


def encode_creds(creds: UserCreds) -> bytes:
    return (
        f"-----BEGIN NATS USER JWT-----\n{creds.jwt}\n------END NATS USER JWT------\n\n"
        "Keep this file to yourself: whoever holds the seed below can act as this user.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{creds.seed}\n------END USER NKEY SEED------\n"
    ).encode()


def decode_creds(data: bytes) -> UserCreds:
    """Decode a token and its seed. Raises Corrupt unless the seed belongs to the token's key."""
    blocks = dict(_BLOCK.findall(data.decode("ascii", "replace")))
    try:
        creds = UserCreds(jwt=blocks["NATS USER JWT"], seed=blocks["USER NKEY SEED"])
    except KeyError as error:
        raise Corrupt("state_corrupt", "not a creds file: no token or no seed in it") from error
    if creds.key_pair().public != decode_user_jwt(creds.jwt).user:
        raise Corrupt("state_corrupt", "the seed is not that of the token beside it")
    return creds
