"""Connection of one call of the command line."""

import asyncio
import contextlib
import importlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

from broker_client.cli.options import TIMEOUT_S, Common, Shared
from broker_client.cli.screen.report import say
from broker_client.cli.screen.tables import in_local_time
from broker_client.context import Context, load_context

if TYPE_CHECKING:
    from broker_client.api import MeshClient

T = TypeVar("T")


def context_of(common: Common) -> Context:
    return load_context(common.context, os.environ)


def timeout_of(common: Common) -> float:
    return common.timeout if isinstance(common, Shared) else TIMEOUT_S


def call(common: Common, work: Callable[["MeshClient"], Awaitable[T]]) -> T:
    """Connect as the context says, do `work`, and close.

    Raises faults of `work`, or MeshError without a context or a connection.
    """
    context = context_of(common)
    timeout_s = timeout_of(common)
    # Imported here: a mistake in the command line or the context is reported without the delay.
    with lightly():
        from broker_client.api import MeshClient
        from broker_client.runtime import tracing
        from broker_client.runtime.logs import configure_logs

    configure_logs("error")

    async def connected() -> T:
        async with MeshClient.connect(context, timeout_s=timeout_s, say=say_notice) as mesh:
            with tracing.use(os.environ.get(tracing.VARIABLE, "")):
                return await work(mesh)

    return asyncio.run(connected())


def say_notice(line: str) -> None:
    """Print a notice of the client on stderr, with times as people here read them."""
    say(in_local_time(line, time.time()))


# Modules that libraries import and a command line never uses: colours for tracebacks, the client
# library's release number and JetStream. They take half of the time of all imports.
_UNUSED: Final = ("rich", "importlib.metadata")
_LATER: Final = "nats.js"


@contextlib.contextmanager
def lightly() -> Iterator[None]:
    """Import libraries without modules that a command line does not use; they load on demand."""
    kept_out = [name for name in _UNUSED if name not in sys.modules]
    for name in kept_out:
        sys.modules[name] = None  # type: ignore[assignment]
    later = None if _LATER in sys.modules else _module_for_later(_LATER)
    try:
        yield
    finally:
        for name in kept_out:
            del sys.modules[name]
        if later is not None and sys.modules.get(_LATER) is later:
            del sys.modules[_LATER]
            if parent := sys.modules.get(_LATER.partition(".")[0]):
                parent.__dict__.setdefault(_LATER.rpartition(".")[2], later)


def _module_for_later(name: str) -> ModuleType:
    """Return a placeholder of a module, which loads it at the first use of an attribute."""
    module = ModuleType(name)

    def load(attribute: str) -> object:
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    module.__dict__["__getattr__"] = load
    sys.modules[name] = module
    return module
