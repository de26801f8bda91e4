"""Contexts: which mesh a client speaks to, as whom, and where its identity lies."""

import json
import tomllib
from pathlib import Path

import msgspec

from broker_client.runtime.creds import decode_creds
from broker_client.runtime.files import read_bytes, read_given, write_public
from broker_client.runtime.identity import (
    CA_FILE,
    CERT_FILE,
    CREDS_FILE,
    KEY_FILE,
    Identity,
)
from broker_client.runtime.tls import client_context
from schemas.faults import Refused


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The file `context.toml`; relative paths are relative to the file's own folder."""

    mesh: str
    name: str
    role: str
    urls: tuple[str, ...]
    ca: str = CA_FILE
    cert: str = CERT_FILE
    key: str = KEY_FILE
    creds: str = CREDS_FILE


def read_context(path: Path) -> Context:
    """Raises Refused (`context_invalid`, or as `files.read_given`); its paths are absolute."""
    text = read_given(path)
    try:
        context = msgspec.convert(tomllib.loads(text), Context)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Refused("context_invalid", f"{path}: {error}") from error
    if not context.urls:
        raise Refused("context_invalid", f"{path}: urls is empty")
    folder = path.absolute().parent
    return msgspec.structs.replace(
        context,
        ca=str(folder / context.ca),
        cert=str(folder / context.cert),
        key=str(folder / context.key),
        creds=str(folder / context.creds),
    )


def context_identity(context: Context) -> Identity:
    """Load what a context names; raises as `identity.read_identity`."""
    tls = client_context(Path(context.ca), Path(context.cert), Path(context.key))
    return Identity(context=tls, creds=decode_creds(read_bytes(Path(context.creds))))


def write_context(path: Path, context: Context) -> None:
    lines = []
    for key, value in msgspec.to_builtins(context).items():
        # JSON's strings and arrays of strings are TOML's as well.
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    write_public(path, "".join(lines).encode())
