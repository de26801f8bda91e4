"""Opening of connections, one after the other: the next broker, and complaints of connections."""

from collections.abc import Callable, Sequence

import structlog

from broker_client.runtime.clock import Clock
from broker_client.runtime.link.guard import CONNECT_S, GuardedClient, GuardEvents
from broker_client.runtime.link.opening import PATIENCE_S, Endpoint, LinkIdentity
from broker_client.runtime.link.overlap import Routes
from broker_client.runtime.rates import TokenBucket
from schemas.faults import MeshError, Misused

log = structlog.get_logger(__name__)


class Complaints:
    """Faults of messages on connections: counted, and logged with a rate limit."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._lines = TokenBucket(per_s=0.2, burst=5)
        self.callback_failures = 0
        self.permission_errors = 0
        self.last_permission_error: str | None = None

    def note_refused_line(self, text: str) -> None:
        self.permission_errors += 1
        self.last_permission_error = text
        if self._lines.take(self._clock.elapsed()):
            log.warning("permission_refused", link=self._name, text=text)

    def note_callback_failed(self, subject: str, error: BaseException) -> None:
        self.callback_failures += 1
        if self._lines.take(self._clock.elapsed()):
            log.error("callback_failed", link=self._name, subject=subject, exc_info=error)


class Dialer:
    """Opens connections of one link. endpoints: configured ones, and discovered cluster nodes."""

    def __init__(
        self,
        urls: Sequence[str],
        identity: Callable[[], LinkIdentity],
        name: str,
        complaints: Complaints,
    ) -> None:
        if not urls:
            raise Misused("settings_invalid", "no address of a broker is given")
        self._given = tuple(urls)
        self.endpoints = [Endpoint(url=url) for url in urls]
        self.identity = identity
        self._name = name
        self._complaints = complaints
        self._patience_s = 0.0

    def look_at(self, urls: Sequence[str]) -> None:
        """Replace the configured addresses; discovered nodes of a cluster stay."""
        if not urls:
            raise Misused("settings_invalid", "no address of a broker is given")
        old = {*self._given, *urls}
        found = [each for each in self.endpoints if each.url not in old]
        self._given = tuple(urls)
        self.endpoints = [*(Endpoint(url=url) for url in urls), *found]

    def next_endpoint(self) -> Endpoint:
        """Return the next endpoint, round robin: the one that failed last is tried last."""
        endpoint = self.endpoints.pop(0)
        self.endpoints.append(endpoint)
        return endpoint

    async def open(
        self,
        endpoint: Endpoint,
        routes: Routes,
        leaving: Callable[[], None],
        *,
        identity: LinkIdentity | None = None,
        refused_line: Callable[[str], None] | None = None,
    ) -> GuardedClient:
        """Open a connection as `identity`, by default the present one; as `GuardedClient.open`.

        leaving: called when the broker is about to stop. refused_line: called, in place of the
        complaints, with each refusal of the broker.
        """
        client = GuardedClient(
            routes,
            GuardEvents(
                refused_line=refused_line or self._complaints.note_refused_line,
                callback_failed=self._complaints.note_callback_failed,
                leaving=leaving,
            ),
            patience_s=self._patience_s,
        )
        try:
            who = identity or self.identity()
            await client.open(endpoint, who, name=self._name, timeout_s=CONNECT_S)
        except MeshError:
            self._patience_s = PATIENCE_S if client.is_encrypted else 0.0
            raise
        self._patience_s = 0.0
        known = {each.url for each in self.endpoints}
        self.endpoints += [found for found in client.discovered if found.url not in known]
        return client
