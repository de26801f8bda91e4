"""Reconnect: one connection at a time, and the next one after a loss, with back-off.

Callers wait for a connection; listeners are called after each connect and each disconnect.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from broker_client.runtime.backoff import Backoff
from broker_client.runtime.clock import Clock
from broker_client.runtime.frames import Msg
from broker_client.runtime.link.dial import Dialer
from broker_client.runtime.link.guard import GuardedClient
from broker_client.runtime.link.opening import Untrusted
from broker_client.runtime.link.requests import Requests
from broker_client.runtime.link.subscriptions import Subscriptions
from schemas.faults import MeshError, Refused, Unreachable

FIRST_WAIT_S: Final = 0.2
# Greatest back-off in seconds. Short for an unreachable broker, so that an agent is back within
# seconds of its return. Long after refused credentials: only new ones help.
WAIT_CAP_S: Final = 2.0
REFUSED_WAIT_CAP_S: Final = 30.0
# Seconds of a connection after which it counts as stable, and the back-off is reset.
STABLE_S: Final = 5.0
FLUSH_S: Final = 5.0
# Late messages to itself in a row that are allowed while many other messages come.
LOOPBACKS_LATE: Final = 5

log = structlog.get_logger(__name__)


class Keeper:
    """Keeps one connection: `client`, or None. is_up: its broker knows all subscriptions."""

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        subscriptions: Subscriptions,
        requests: Requests,
        *,
        clock: Clock,
        chance: Callable[[], float],
        loopback_s: float | None,
    ) -> None:
        self._name = name
        self._dialer = dialer
        self._subscriptions = subscriptions
        self._requests = requests
        self._clock = clock
        self._chance = chance
        self._loopback_s = loopback_s
        self._loopback = requests.open_loopback(self._note_loopback)
        self._loopback_heard = True
        self._loopbacks_late = 0
        self._received = 0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_closed = False
        self._failed = 0
        self.client: GuardedClient | None = None
        self.is_up = False
        self.reconnects = 0
        self.last_error: MeshError | None = None
        self.connected_url: str | None = None
        self.connected_at: float | None = None
        self.on_connected: list[Callable[[], object]] = []
        self.on_disconnected: list[Callable[[MeshError], object]] = []

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._keep(), name=f"link {self._name}"
            )

    async def stop(self) -> GuardedClient | None:
        """Stop reconnecting; returns the present connection, which is still open."""
        self._is_closed = True
        if self._task is not None:
            # Repeated: `asyncio.wait_for` of 3.11, which nats-py uses, may lose a cancellation.
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=0.1)
            self._task = None
        client, self.client = self.client, None
        self._set_down(Unreachable("broker_unreachable", "the link was closed"))
        self._note_change()
        return client

    @property
    def addresses(self) -> list[str]:
        return [endpoint.url for endpoint in self._dialer.endpoints]

    # waiting

    async def wait_up(self, wait_s: float | None) -> None:
        """Wait for the connection; raises the last fault after `wait_s` (None: no limit).

        With a limit, a fault that no retry can mend is raised at once. A closed link raises
        Unreachable.
        """
        try:
            async with asyncio.timeout(wait_s):
                while not self.is_up:
                    if self._is_closed or (wait_s is not None and self._is_hopeless()):
                        raise self.last_error or self.down()
                    await self._changed.wait()
        except TimeoutError:
            raise self.last_error or Unreachable(
                "broker_unreachable", "no connection in time", effect="none"
            ) from None

    def _is_hopeless(self) -> bool:
        """Whether no retry can help. Another of several brokers may have the right certificate."""
        if isinstance(self.last_error, Untrusted):
            return self._failed >= len(self._dialer.endpoints)
        return isinstance(self.last_error, Refused)

    def _note_change(self) -> None:
        """Wake the waiters: after a connect, a failed try, or the close of the link."""
        self._changed.set()
        self._changed = asyncio.Event()

    def down(self) -> Unreachable:
        """Return the fault of calls that need a connection while there is none."""
        why = "" if self.last_error is None else f": {self.last_error.message}"
        return Unreachable("broker_unreachable", f"not connected{why}", effect="none")

    # the loop

    async def _keep(self) -> None:
        backoff = Backoff(self._chance, first_s=FIRST_WAIT_S, cap_s=WAIT_CAP_S)
        refused = Backoff(self._chance, first_s=FIRST_WAIT_S, cap_s=REFUSED_WAIT_CAP_S)
        while True:
            began_at = self._clock.elapsed()
            reason = await self._live_once()
            if self._clock.elapsed() - began_at >= STABLE_S and self.last_error is reason:
                backoff.reset()
                refused.reset()
            is_refused = isinstance(reason, Refused)
            await asyncio.sleep((refused if is_refused else backoff).next_s())

    async def _live_once(self) -> MeshError:
        """Connect to the next endpoint and return the reason of the connection's end."""
        try:
            client = await self._dialer.open(
                self._dialer.next_endpoint(), self._subscriptions.routes, self.leave
            )
            self.client = client
            await self._subscriptions.tell(client, FLUSH_S)
        except MeshError as error:
            return self._note_failed(error)
        except Exception as error:
            # Identity callbacks read files with any content.
            log.exception("connect_failed", link=self._name)
            self.last_error = Unreachable("internal", f"{type(error).__name__} while connecting")
            self._note_change()
            return self.last_error
        self.note_up(client)
        reason = await self._watch()
        self.last_error = reason
        self.client = None
        log.warning("disconnected", link=self._name, url=self.connected_url, reason=str(reason))
        self._set_down(reason)
        return reason

    def _note_failed(self, error: MeshError) -> MeshError:
        if self.client is not None:
            self.client.abort("subscribing failed")
            self.client = None
        if self.last_error is None or str(self.last_error) != str(error):
            log.warning("connect_failed", link=self._name, error=str(error))
        self.last_error = error
        self._failed += 1
        self._note_change()
        return error

    async def _watch(self) -> MeshError:
        """Wait for the end of the connection, or of its successor after a handover."""
        while True:
            client = self.client
            if client is None:
                return Unreachable("broker_unreachable", "the link was closed")
            done, _ = await asyncio.wait({client.lost}, timeout=self._loopback_s)
            if done:
                if self.client is client:
                    return client.lost.result()
            elif self.client is client:
                self._check_loopback(client)

    def _check_loopback(self, client: GuardedClient) -> None:
        before, self._received = self._received, client.reader.messages
        if not self._loopback_heard:
            # The loopback may queue behind messages that are still coming.
            self._loopbacks_late += 1
            if self._received == before or self._loopbacks_late > LOOPBACKS_LATE:
                client.abort("deaf: our own message did not come back")
            return
        self._loopbacks_late = 0
        self._loopback_heard = False
        with contextlib.suppress(MeshError):
            client.out.publish_nowait(self._loopback, b"")

    def _note_loopback(self, _msg: Msg) -> None:
        self._loopback_heard = True

    # up and down

    def note_up(self, client: GuardedClient) -> None:
        """Use `client` from now on; calls the listeners if there was no connection before."""
        self.client = client
        self.connected_url = client.endpoint.url if client.endpoint is not None else None
        self.connected_at = self._clock.elapsed()
        self._loopback_heard = True
        self._loopbacks_late = 0
        self.last_error = None
        was_up, self.is_up = self.is_up, True
        self._note_change()
        log.info("connected", link=self._name, url=self.connected_url)
        if not was_up:
            self._tell(self.on_connected)

    def _set_down(self, reason: MeshError) -> None:
        if not self.is_up:
            return
        self.is_up = False
        self.connected_at = None
        self.reconnects += not self._is_closed
        self._requests.fail_all(f"the connection was lost: {reason.message}")
        self._tell([functools.partial(each, reason) for each in self.on_disconnected])

    def _tell(self, listeners: Sequence[Callable[[], object]]) -> None:
        for listener in listeners:
            try:
                listener()
            except Exception:
                log.exception("listener_failed", link=self._name)

    def leave(self) -> None:
        """Fail over to another node now, if there is one: the broker is about to stop."""
        if self.client is not None and len(self._dialer.endpoints) > 1:
            self.client.abort("the broker node is about to stop")
