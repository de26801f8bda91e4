"""The HTTP interface of a Vault server, as far as an agent uses it."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class VaultServer(ThreadingHTTPServer):
    """The HTTP interface of a Vault: login by role, and secrets of KV versions 1 and 2."""

    def __init__(self, value: str, secret_id: str, token: str) -> None:
        super().__init__(("127.0.0.1", 0), VaultHandler)
        self.secret_id, self.token = secret_id, token
        self.calls: list[tuple[str, str]] = []
        self.secrets: dict[str, Any] = {
            "/v1/kv/data/erp": {"data": {"data": {"password": value}, "metadata": {}}},
            "/v1/old/erp": {"data": {"password": value}},
        }

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class VaultHandler(BaseHTTPRequestHandler):
    server: VaultServer

    def do_GET(self) -> None:
        self.server.calls.append(("GET", self.path))
        if self.headers.get("X-Vault-Token") != self.server.token:
            self._say(403, {"errors": ["permission denied"]})
        elif self.path in self.server.secrets:
            self._say(200, self.server.secrets[self.path])
        else:
            self._say(404, {"errors": []})

    def do_POST(self) -> None:
        self.server.calls.append(("POST", self.path))
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if order == {"role_id": "role-1", "secret_id": self.server.secret_id}:
            self._say(200, {"auth": {"client_token": self.server.token}})
        else:
            self._say(400, {"errors": ["invalid role or secret ID"]})

    def _say(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def vault_server(
    value: str, secret_id: str = "secret-id-1", token: str = "token-of-the-role"
) -> Iterator[VaultServer]:
    """A server that holds `value` as `kv/erp#password` (version 2) and `old/erp#password`."""
    with VaultServer(value, secret_id, token) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
