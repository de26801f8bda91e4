"""State of a link, for observers: up or down, since when, the last fault, and counters."""

from typing import Final

from broker_client.runtime.link.dial import Complaints
from broker_client.runtime.link.reconnect import Keeper
from schemas.faults import MeshError

# Default limit of a broker, in bytes, used before the first connection.
DEFAULT_MAX_PAYLOAD: Final = 1024 * 1024


class LinkState:
    """State and counters: `reconnects`, `callback_failures`, `malformed` (messages skipped).

    The broker refuses a publish or a subscription asynchronously: `last_permission_error`.
    """

    def __init__(self, keeper: Keeper, complaints: Complaints) -> None:
        self._keeper = keeper
        self._complaints = complaints

    @property
    def addresses(self) -> str:
        """Addresses of the broker, for people."""
        return ", ".join(self._keeper.addresses)

    @property
    def is_connected(self) -> bool:
        return self._keeper.is_up

    @property
    def connected_url(self) -> str | None:
        return self._keeper.connected_url

    @property
    def connected_at(self) -> float | None:
        """Reading of the monotonic clock at the connect; None while disconnected."""
        return self._keeper.connected_at

    @property
    def last_error(self) -> MeshError | None:
        """Reason for which there is no connection; None while connected."""
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
        """Number of messages received on the present connection."""
        return 0 if self._keeper.client is None else self._keeper.client.reader.messages

    @property
    def max_payload(self) -> int:
        """The broker's limit for headers and body of one message, in bytes."""
        client = self._keeper.client
        return DEFAULT_MAX_PAYLOAD if client is None else client.max_payload

    @property
    def pending_bytes(self) -> int:
        """Published bytes that the kernel has not taken yet."""
        return 0 if self._keeper.client is None else self._keeper.client.out.pending_bytes
