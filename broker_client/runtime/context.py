"""Contexts: addresses of a mesh, and the files of a client's identity."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.creds import decode_creds
from broker_client.runtime.files import (
    os_errors,
    read_bytes,
    read_given,
    write_private,
    write_public,
)
from broker_client.runtime.identity import (
    CA_FILE,
    CERT_FILE,
    CREDS_FILE,
    KEY_FILE,
    Identity,
)
from broker_client.runtime.tls import client_context
from schemas.faults import Refused

# An array of strings, maybe over several lines, with comments between them.
_URLS: Final = re.compile(
    r"""^urls[ \t]*=[ \t]*\[(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*\n|[\s,])*\]""", re.MULTILINE
)


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The file `context.toml`; relative paths are relative to the file's own folder.

    file: its path; it is no key of the file.
    """

    mesh: str
    name: str
    role: str
    urls: tuple[str, ...]
    ca: str = CA_FILE
    cert: str = CERT_FILE
    key: str = KEY_FILE
    creds: str = CREDS_FILE
    file: str = ""


def read_context(path: Path) -> Context:
    """Read a context with absolute paths. Raises Refused: `context_invalid`, or of `read_given`."""
    text = read_given(path)
    try:
        context = msgspec.convert(tomllib.loads(text), Context)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        from schemas.wrong import told  # for a file that is wrong only

        raise Refused("context_invalid", f"{path}: {told(error, Context)}") from error
    if not context.urls:
        raise Refused("context_invalid", f"{path}: urls is empty")
    folder = path.absolute().parent
    return msgspec.structs.replace(
        context,
        ca=str(folder / context.ca),
        cert=str(folder / context.cert),
        key=str(folder / context.key),
        creds=str(folder / context.creds),
        file=str(path.absolute()),
    )


def context_identity(context: Context) -> Identity:
    """Load the identity of a context; raises as `identity.read_identity`."""
    tls = client_context(Path(context.ca), Path(context.cert), Path(context.key))
    return Identity(context=tls, creds=decode_creds(read_bytes(Path(context.creds))))


def write_context(path: Path, context: Context) -> None:
    lines = [
        f"{key} = {_toml(value)}\n"
        for key, value in msgspec.to_builtins(context).items()
        if key != "file"
    ]
    write_public(path, "".join(lines).encode())


def write_context_urls(path: Path, urls: Sequence[str]) -> None:
    """Replace the addresses in the file; all else, comments included, stays.

    Raises Refused if it cannot be read or written, or is no context (`context_invalid`).
    """
    text = read_given(path)
    changed = _URLS.sub(lambda _: f"urls = {_toml([*urls])}", text, count=1)
    try:
        before, after = tomllib.loads(text), tomllib.loads(changed)
    except tomllib.TOMLDecodeError as error:
        raise Refused("context_invalid", f"{path}: {error}") from error
    if after != before | {"urls": [*urls]}:
        raise Refused("context_invalid", f"{path}: urls is written in a way that is not changed")
    # The path may be a link to the file. The file's permissions stay.
    path = path.resolve()
    with os_errors(path, "write"):
        mode = path.stat().st_mode & 0o777
        write_private(path, changed.encode())
        path.chmod(mode)


def _toml(value: object) -> str:
    """Return a TOML value: JSON's strings and arrays of strings are valid TOML."""
    return json.dumps(value, ensure_ascii=False)
