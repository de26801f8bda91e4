"""Following one command to its end: output, Ctrl-C, and notices about its waits."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from broker_client.asking import is_passing
from broker_client.cli.run.waits import told
from broker_client.cli.screen.report import say
from broker_client.cli.screen.sinks import Sink, Writer
from broker_client.cli.words import INTERRUPTED
from schemas.faults import MeshError
from schemas.messages.facts import CommandRecord
from schemas.messages.fanouts import FanoutRecord
from schemas.states import TERMINAL

if TYPE_CHECKING:
    from broker_client.api import MeshClient
    from broker_client.results import Waiter

T = TypeVar("T")
Show = Callable[[str], Awaitable[CommandRecord | FanoutRecord]]

# Seconds within which a command's end is shown from its result, without a further request.
QUICK_S: Final = 0.15
# Seconds between the last byte and the pushed result, after which the result is requested.
PUSH_S: Final = 1.0
# Seconds between checks whether the command waits.
PATIENCE_S: Final = 2.0
# States of a command or a fan-out that runs no more.
_ENDED: Final = frozenset({*TERMINAL, "partial"})
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def attend(
    mesh: "MeshClient",
    command: str,
    waiter: "Waiter",
    sink: Sink,
    interrupted: asyncio.Event,
    *,
    said: str = "",
) -> CommandRecord | None:
    """Show the output of `command` until it has ended; None if the person left before.

    interrupted: event of `interrupts`. The first time cancels the command, while its output is
    still shown; the second time leaves. said: the state that a person was told the reason of.
    """
    try:
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(_show(mesh, command, waiter, sink))
            others = (
                group.create_task(_obey(interrupted, mesh, command, showing.cancel)),
                group.create_task(_tell_why_it_waits(mesh, command, said)),
            )
            await asyncio.wait({showing})
            for other in others:
                other.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return None if showing.cancelled() else showing.result()


async def until_submitted(
    submitting: Coroutine[Any, Any, T], id: str, interrupted: asyncio.Event, *, see: str
) -> T | None:
    """Await `submitting` and return its value; None if the person left before the answer.

    The first interruption is kept for the follower of `id`, the second one leaves. see: the command
    line that shows it. A fault with a possible retry is raised with the id, as one of the earlier
    tries may have arrived.
    """
    advice = f"{id} may have been submitted; see `{see} {id}`"
    answer = asyncio.ensure_future(submitting)
    leaving = asyncio.ensure_future(_interrupted_twice(interrupted, id))
    try:
        await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
    except MeshError as error:
        if is_passing(error):
            say(advice)
        raise
    finally:
        answer.cancel()
        leaving.cancel()
        await asyncio.wait({answer, leaving})
    say(f"left: {advice}")
    return None


async def _interrupted_twice(interrupted: asyncio.Event, id: str) -> None:
    await _next(interrupted)
    say(f"{id} is being submitted; Ctrl-C again to leave it")
    try:
        await interrupted.wait()
    finally:
        interrupted.set()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in nested groups."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _show(mesh: "MeshClient", command: str, waiter: "Waiter", sink: Sink) -> CommandRecord:
    writer = Writer(sink)
    await asyncio.wait({waiter.done}, timeout=QUICK_S)
    if waiter.done.done():
        record = await waiter.record()
        if record.output is not None and not record.output.truncated:
            await writer.write_whole(record.output)
            return record
    output = mesh.logs(command, follow=True)
    try:
        async for part in output:
            await writer.write(part)
    finally:
        await output.aclose()
    await asyncio.wait({waiter.done}, timeout=PUSH_S)
    return await (waiter.record() if waiter.done.done() else mesh.wait(command))


async def _obey(
    interrupted: asyncio.Event, mesh: "MeshClient", command: str, leave: Callable[[], object]
) -> None:
    await _next(interrupted)
    say(f"ending {command}; Ctrl-C again to leave it")
    async with asyncio.TaskGroup() as group:
        cancelling = group.create_task(_cancel(mesh, command))
        await _next(interrupted)
        cancelling.cancel()
    leave()


async def _next(event: asyncio.Event) -> None:
    await event.wait()
    event.clear()


async def _cancel(mesh: "MeshClient", command: str) -> None:
    try:
        await mesh.cancel(command)
    except MeshError as error:
        if error.code != "command_ended":
            say(f"cannot end {command}: {error}")


async def _tell_why_it_waits(mesh: "MeshClient", command: str, said: str) -> None:
    """Print each new reason for which the command waits, and when it continues.

    Prints nothing without a terminal: a script has the exit code.
    """
    if not sys.stderr.isatty():
        return
    while True:
        await asyncio.sleep(PATIENCE_S)
        with contextlib.suppress(MeshError):
            record = await mesh.show(command)
            if record.state in TERMINAL:
                return
            kind = record.state if told(record) else ""
            if kind and kind != said:
                say(told(record, time.time()))
            elif said and not kind:
                say(f"{command} is {record.state}")
            said = kind


@contextlib.asynccontextmanager
async def told_if_left(
    show: Callable[[str], Awaitable[CommandRecord | FanoutRecord]], id: str, cancel: str
) -> AsyncIterator[None]:
    """Say that what `id` names goes on, if it does, when the reader of its output has gone.

    show: returns its record. cancel: the command line that ends it.
    """
    try:
        yield
    except BrokenPipeError:
        with contextlib.suppress(MeshError):
            if (await show(id)).state not in _ENDED:
                say(f"{id} goes on without a reader of its output; to end it: `{cancel} {id}`")
        raise


@contextlib.contextmanager
def interrupts() -> Iterator[asyncio.Event]:
    """Yield an event that each Ctrl-C sets, in place of a KeyboardInterrupt.

    SIGTERM and SIGHUP set it, too, unless this process started with them ignored, as by `nohup`.
    """
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = _obeyed()
    for number in before:
        loop.add_signal_handler(number, event.set)
    try:
        yield event
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_leave(id: str, *, see: str) -> Iterator[None]:
    """End the block at SIGTERM and SIGHUP, as at Ctrl-C, where `interrupts` is not used.

    Prints a line with the id before. Raises SystemExit.
    """
    before = _obeyed()
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; `{see} {id}` shows it if it was submitted")
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _obeyed() -> dict[signal.Signals, Any]:
    """Return the present handlers of the signals that end this process."""
    found = {number: signal.getsignal(number) for number in _ENDING}
    return {number: done for number, done in found.items() if done is not signal.SIG_IGN}


def leave_now(code: int) -> None:
    """Exit without waiting for a thread that writes to a blocked reader."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)
