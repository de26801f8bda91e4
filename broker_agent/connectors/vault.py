"""Reads a secret of a Vault server (KV version 2 or 1) by two calls, with the standard library."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from broker_agent.core.references import Vault

TIMEOUT_S: Final = 5.0
ANSWER_BYTES: Final = 1024 * 1024
NOT_FOUND: Final = 404
_OK: Final = 200


class VaultFault(Exception):
    """Cause, without any value."""


def read(access: Vault, reference: str) -> str:
    """Return the value that `PATH#KEY` names. Raises VaultFault and OSError."""
    path, _, key = reference.partition("#")
    if not access.address:
        raise VaultFault("the setting connectors.vault.address is empty")
    token = _token(access)
    mount, _, rest = path.partition("/")
    status, body = _call(access, "GET", f"{mount}/data/{rest}", token)
    held = _of(body, "data", "data") if status == _OK else None
    if status == NOT_FOUND:
        status, body = _call(access, "GET", path, token)
        held = _of(body, "data") if status == _OK else None
    if status != _OK:
        raise VaultFault(f"the server answers {status}")
    value = held.get(key) if isinstance(held, dict) else None
    if not isinstance(value, str):
        raise VaultFault(f"it has no text of the name {key}")
    return value


def _token(access: Vault) -> str:
    if access.token_file:
        return Path(access.token_file).read_text(encoding="utf-8").strip()
    if not access.role_id or not access.secret_id_file:
        raise VaultFault("connectors.vault has neither token_file nor role_id and secret_id_file")
    secret_id = Path(access.secret_id_file).read_text(encoding="utf-8").strip()
    order = {"role_id": access.role_id, "secret_id": secret_id}
    status, body = _call(access, "POST", "auth/approle/login", "", order)
    token = _of(body, "auth", "client_token")
    if status != _OK or not isinstance(token, str):
        raise VaultFault(f"the login is refused: the server answers {status}")
    return token


def _call(
    access: Vault, method: str, path: str, token: str, order: object = None
) -> tuple[int, object]:
    """Return status and body of an answer; redirects are not followed."""
    connection = _open(access)
    headers = {"X-Vault-Request": "true", "Accept": "application/json"}
    headers |= {"X-Vault-Token": token} if token else {}
    headers |= {"X-Vault-Namespace": access.namespace} if access.namespace else {}
    body = None if order is None else json.dumps(order)
    try:
        connection.request(method, f"/v1/{quote(path)}", body, headers)
        answer = connection.getresponse()
        data = answer.read(ANSWER_BYTES)
    except (http.client.HTTPException, ValueError) as error:
        raise VaultFault(f"the answer is not HTTP: {type(error).__name__}") from None
    finally:
        connection.close()
    try:
        return answer.status, json.loads(data or b"null")
    except ValueError:
        return answer.status, None


def _open(access: Vault) -> http.client.HTTPConnection:
    parts = urlsplit(access.address)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=access.ca or None)
        return http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)


def _of(body: object, *names: str) -> Any:  # noqa: ANN401  (JSON of another server)
    for name in names:
        body = body.get(name) if isinstance(body, dict) else None
    return body
