"""Arguments of an action, from the options of `mesh do`."""

import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from broker_client.acts import Act
from schemas import codec, limits
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS

# Bytes of a body, which leave room for the rest of the request.
BODY_BYTES: Final = limits.PAYLOAD_BYTES - 32 * 1024
# Argument that takes the bytes of `--body`, by action; `body` of the others.
_BODY_OF: Final = {"script.run": "stdin"}
Arguments = dict[str, Any]


def act_of(action: str, texts: Sequence[str] | None, file: str | None, body: str | None) -> Act:
    """Return the action with its arguments, checked as the master does if it is a known one.

    texts: of `--arg`: NAME=TEXT, NAME.KEY=TEXT, or NAME:=JSON. file: JSON or TOML, `-` for JSON on
    stdin. body: a file, `-` for stdin. Raises Refused.
    """
    if file == "-" and body == "-":
        raise Refused("field_invalid", "--args and --body cannot both read stdin")
    args = _from_file(file) if file is not None else {}
    for text in texts or ():
        _put(args, action, text)
    if body is not None:
        args[_BODY_OF.get(action, "body")] = _read(body, "--body")
    act = Act(action, _converted(action, args))
    if action in ACTIONS:
        _ = ACTIONS[action].decode(msgspec.Raw(codec.encode(act.args)))
    return act


def _put(args: Arguments, action: str, text: str) -> None:
    """Enter one `--arg`; a dot leads into a map, as in `params.day=2026-01-31`."""
    name, equals, value = text.partition("=")
    is_json, path = name.endswith(":"), name.removesuffix(":").split(".")
    if not equals or not all(path):
        raise Refused("field_invalid", f"--arg takes NAME=TEXT or NAME:=JSON, not {text[:64]!a}")
    place = args
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise Refused("field_invalid", f"--arg {name[:64]!a}: {part} is no map")
    if is_json:
        place[path[-1]] = _json(value, f"--arg {name}")
    else:
        place[path[-1]] = value if path[1:] else _typed(action, path[0], value)


def _typed(action: str, name: str, value: str) -> object:
    """Return the text, or what it says in JSON where the argument takes no such text."""
    kind = _kinds(action).get(name)
    if kind is None or kind is msgspec.Raw:
        return value
    if _takes_bytes(kind):
        return value.encode()
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        try:
            return json.loads(value)
        except ValueError:
            return value  # refused by its name, with the rest
    return value


def _converted(action: str, args: Arguments) -> Arguments:
    """Return the arguments with bytes in place of texts, where an action takes bytes only."""
    kinds = _kinds(action)
    return {
        name: value.encode() if isinstance(value, str) and _takes_bytes(kinds.get(name)) else value
        for name, value in args.items()
    }


def _kinds(action: str) -> dict[str, Any]:
    found = ACTIONS.get(action)
    return {each.name: each.type for each in msgspec.structs.fields(found.args)} if found else {}


def _takes_bytes(kind: object) -> bool:
    return kind is bytes or bytes in get_args(kind)


def _from_file(file: str) -> Arguments:
    data = _read(file, "--args")
    if file.endswith(".toml"):
        try:
            return tomllib.loads(data.decode())
        except ValueError as error:
            raise Refused("field_invalid", f"--args {file}: {error}") from error
    found = _json(data.decode("utf-8", "replace"), f"--args {file}")
    if not isinstance(found, dict):
        raise Refused("field_invalid", f"--args {file}: no map of arguments")
    return found


def _json(text: str, where: str) -> Any:  # noqa: ANN401  (any JSON)
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused("field_invalid", f"{where}: no JSON: {error}") from error


def _read(file: str, option: str) -> bytes:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(BODY_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(BODY_BYTES + 1)
    except OSError as error:
        raise Refused("field_invalid", f"{option} {file}: {error.strerror}") from error
    if len(data) > BODY_BYTES:
        raise Refused("too_large", f"{option} {file}: more than {BODY_BYTES} bytes")
    return data
