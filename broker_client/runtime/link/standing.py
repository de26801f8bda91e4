"""How a link stands, for those who look at it: up or down, since when, and what went wrong."""

from typing import Final

from broker_client.runtime.link.dial import Complaints
from broker_client.runtime.link.reconnect import Keeper
from schemas.faults import MeshError

# What a broker allows unless its configuration says otherwise; for as long as none was asked.
DEFAULT_MAX_PAYLOAD: Final = 1024 * 1024


class Standing:
    """Counters: `reconnects`, `callback_failures`, `malformed` (messages skipped).

    A refusal of the broker to let us publish or subscribe arrives late and by itself:
    `last_permission_error`.
    """

    def __init__(self, keeper: Keeper, complaints: Complaints) -> None:
        self._keeper = keeper
        self._complaints = complaints

    @property
    def is_connected(self) -> bool:
        return self._keeper.is_up

    @property
    def connected_url(self) -> str | None:
        return self._keeper.connected_url

    @property
    def connected_at(self) -> float | None:
        """Monotonic, in seconds; None while there is no connection."""
        return self._keeper.connected_at

    @property
    def last_error(self) -> MeshError | None:
        """Why there is no connection; None while there is one."""
        return self._keeper.last_error

    @property
    def reconnects(self) -> int:
        return self._keeper.reconnects

    @property
    def callback_failures(self) -> int:
        return self._complaints.callback_failures

    @property
    def permission_errors(self) -> int:
        return self._complaints.permission_errors

    @property
    def last_permission_error(self) -> str | None:
        return self._complaints.last_permission_error

    @property
    def malformed(self) -> int:
        return 0 if self._keeper.client is None else self._keeper.client.reader.malformed

    @property
    def received(self) -> int:
        """Messages that came over the present connection."""
        return 0 if self._keeper.client is None else self._keeper.client.reader.messages

    @property
    def max_payload(self) -> int:
        """The broker's limit for headers and body of one message."""
        client = self._keeper.client
        return DEFAULT_MAX_PAYLOAD if client is None else client.max_payload

    @property
    def pending_bytes(self) -> int:
        """What was published and not yet taken by the kernel."""
        return 0 if self._keeper.client is None else self._keeper.client.out.pending_bytes
