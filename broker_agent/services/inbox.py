"""Receives all messages of the master, in order, and dispatches each to its handler.

Malformed messages, and messages on other subjects than this agent's, are counted and skipped.
"""

from collections.abc import Callable, Mapping
from typing import Final

import structlog

from broker_agent.core.lease import EchoEffect
from broker_agent.services.wire import Station
from broker_client.runtime.frames import Msg
from broker_client.runtime.rates import TokenBucket
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.liveness import Echo

_STORED: Final = f"{subjects.STORED}."

log = structlog.get_logger(__name__)


class Inbox:
    """Dispatcher. handlers: by the last token of the subject; each may raise a MeshError.

    on_stored: called with acknowledgements of stored output.

    check_lease: called before each message. A host that wakes from suspend has queued messages,
    echoes included: tasks whose deadline passed meanwhile are ended before any message is read.
    """

    def __init__(
        self,
        station: Station,
        handlers: Mapping[str, Callable[[bytes], None]],
        *,
        check_lease: Callable[[], None],
        on_stored: Callable[[Msg], None],
    ) -> None:
        self._check_lease = check_lease
        self._on_stored = on_stored
        self._clock = station.clock
        self._prefix = station.address.down_prefix
        self._handlers = handlers
        self._lines = TokenBucket(per_s=0.2, burst=5)
        self.skipped = 0

    def on_message(self, msg: Msg) -> None:
        self._check_lease()
        kind = msg.subject.removeprefix(self._prefix)
        if kind.startswith(_STORED):
            self._on_stored(msg)
            return
        handler = self._handlers.get(kind)
        if handler is None:
            self.skipped += 1
            return
        try:
            handler(msg.data)
        except MeshError as error:
            self.skipped += 1
            if self._lines.take(self._clock.elapsed()):
                log.warning("message_skipped", kind=kind[:32], code=error.code, error=error.message)


class Echoes:
    """Renews the lease. on_linked: called after each echo that reports the agent as reconciled.

    on_unagreed: called with the number of the heartbeat, after an echo that asks for a handshake.
    on_epoch: called with a new master's epoch. on_renewed: called after each renewal of the lease,
    before the others. on_profiles: called when the master asks for the profiles of this host.
    """

    def __init__(
        self,
        station: Station,
        *,
        on_linked: Callable[[], None],
        on_unagreed: Callable[[int], None],
        on_epoch: Callable[[int], None],
        on_renewed: Callable[[], None],
        on_profiles: Callable[[], None],
    ) -> None:
        self._on_renewed = on_renewed
        self._on_profiles = on_profiles
        self._lease = station.lease
        self._clock = station.clock
        self._on_linked = on_linked
        self._on_unagreed = on_unagreed
        self._on_epoch = on_epoch

    def on_echo(self, payload: bytes) -> None:
        echo = codec.decode(Echo, payload)
        epoch = self._lease.epoch
        before, now = self._lease.refused_epoch, self._clock.elapsed()
        heard = self._lease.on_echo(echo, now)
        if heard is EchoEffect.STALE_EPOCH and echo.epoch != before:
            log.error("master_refused", its_epoch=echo.epoch, obeyed_epoch=epoch)
        if heard is not EchoEffect.RENEWED:
            return
        self._on_renewed()
        if echo.profiles:
            self._on_profiles()
        if self._lease.epoch != epoch:
            self._on_epoch(self._lease.epoch)
        if not self._lease.reconciled:
            self._on_unagreed(echo.seq)
        elif echo.reconciled and self._lease.is_linked:
            self._on_linked()
