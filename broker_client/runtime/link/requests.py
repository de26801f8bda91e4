"""Requests in flight, and inboxes for more than one answer: all below one subject of the link."""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Final

from broker_client.runtime.frames import NO_RESPONDERS, Msg, check_subject
from schemas.faults import Unreachable

Callback = Callable[[Msg], object]
_LOOPBACK: Final = "loop"


class NoResponders(Unreachable):
    """No subscriber: the broker answers 503 at once, so the request had no effect."""

    effect = "none"


class Unanswered(Unreachable):
    """A request had no answer within its timeout."""


class Requests:
    """Requests of one link and their answers. inbox: its subject, with a random part per link.

    prefix: without a final dot.
    """

    def __init__(self, prefix: str) -> None:
        self.inbox = f"{check_subject(prefix)}.{secrets.token_hex(8)}"
        self._tokens = itertools.count(1)
        self._callbacks: dict[str, Callback] = {}
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    async def ask(self, send: Callable[[str], None], subject: str, timeout_s: float) -> Msg:
        """Call `send` with the reply subject, and return the first answer.

        Raises NoResponders at once if there is no subscriber; Unanswered (`no_answer`, effect
        unknown) after `timeout_s`; Unreachable (`no_answer`, effect unknown) when the connection is
        lost meanwhile; and faults of `send`.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        token = f"{next(self._tokens)}"
        timer = loop.call_later(timeout_s, _time_out, answer, subject, timeout_s)
        self._waiting[token] = answer
        try:
            send(f"{self.inbox}.{token}")
            return await answer
        finally:
            timer.cancel()
            del self._waiting[token]

    def open_inbox(self, callback: Callback) -> tuple[str, Callable[[], None]]:
        """Return a subject for any number of answers, and a function to close it."""
        token = f"{next(self._tokens)}"
        self._callbacks[token] = callback
        return f"{self.inbox}.{token}", lambda: self._callbacks.pop(token, None) and None

    def open_loopback(self, callback: Callback) -> str:
        """Return a subject for messages of the link to itself."""
        self._callbacks[_LOOPBACK] = callback
        return f"{self.inbox}.{_LOOPBACK}"

    def route(self, msg: Msg) -> None:
        """Deliver a message on a subject below the inbox."""
        token = msg.subject[len(self.inbox) + 1 :].partition(".")[0]
        answer = self._waiting.get(token)
        if answer is not None:
            if answer.done():
                return
            if not msg.data and msg.raw_headers and msg.status == NO_RESPONDERS:
                answer.set_exception(NoResponders("no_answer", "nobody listens there"))
            else:
                answer.set_result(msg)
            return
        callback = self._callbacks.get(token)
        if callback is not None:
            callback(msg)

    def fail_all(self, reason: str) -> None:
        """Fail all requests in flight with `no_answer`: nothing will answer them any more."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unreachable("no_answer", reason))


def _time_out(answer: "asyncio.Future[Msg]", subject: str, timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(Unanswered("no_answer", f"no answer on {subject} in {timeout_s:g} s"))
