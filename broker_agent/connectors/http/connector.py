"""Connector of the kind `http`."""

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from broker_agent.connectors.api import ActionSpec, CallFailed, Secrets
from broker_agent.connectors.http.profile import HttpProfile, problems
from schemas.messages.actions.http import HttpRequestArgs

if TYPE_CHECKING:
    from broker_agent.connectors.http.session import HttpSession


class HttpConnector:
    kind = "http"
    capability = "http"
    profile = HttpProfile
    actions: Mapping[str, ActionSpec] = {
        "http.request": ActionSpec(args=HttpRequestArgs, effect="writes")
    }

    def check(self, profile: HttpProfile) -> Sequence[str]:
        return list(problems(profile))

    def open(self, profile: HttpProfile, secrets: Secrets) -> "HttpSession":
        return _sessions()(profile, fixed_headers(profile, secrets))

    def kill(self, profile: HttpProfile, secrets: Secrets, server_id: str) -> None:
        """A request that was cut off leaves nothing at the server that could be ended."""


def fixed_headers(profile: HttpProfile, secrets: Secrets) -> dict[str, str]:
    """Return the headers of each request; those with secrets win."""
    headers = dict(profile.headers)
    for name in profile.secret_headers:
        headers[name] = secrets[f"secret_headers.{name}"]
    if profile.token is not None:
        headers["Authorization"] = f"Bearer {secrets['token']}"
    elif profile.password is not None:
        pair = f"{profile.user}:{secrets['password']}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    return headers


def _sessions() -> type["HttpSession"]:
    try:
        from broker_agent.connectors.http.session import HttpSession
    except ImportError as error:
        raise CallFailed(
            "connector_missing", "urllib3 is not installed: agent-mesh[http]", effect="none"
        ) from error
    return HttpSession


CONNECTOR: Final = HttpConnector()
