"""One connection for one command of the command line."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from broker_client.cli.options import TIMEOUT_S, Common, Shared
from broker_client.context import Context, load_context

if TYPE_CHECKING:
    from broker_client.api import MeshClient

T = TypeVar("T")


def context_of(common: Common) -> Context:
    return load_context(common.context, os.environ)


def timeout_of(common: Common) -> float:
    return common.timeout if isinstance(common, Shared) else TIMEOUT_S


def call(common: Common, work: Callable[["MeshClient"], Awaitable[T]]) -> T:
    """Connect as the context says, do `work`, and close again.

    Raises what `work` raises, or MeshError if there is no context or no connection.
    """
    context = context_of(common)
    timeout_s = timeout_of(common)
    # Only now: a mistake in the command line or the context should not wait for these.
    with without_rich():
        from broker_client.api import MeshClient
        from broker_client.runtime import tracing
        from broker_client.runtime.logs import configure_logs

    configure_logs("error")

    async def connected() -> T:
        async with MeshClient.connect(context, timeout_s=timeout_s) as mesh:
            with tracing.use(os.environ.get(tracing.VARIABLE, "")):
                return await work(mesh)

    return asyncio.run(connected())


@contextlib.contextmanager
def without_rich() -> Iterator[None]:
    """Keep structlog from loading it, which takes a twentieth of a second, for tracebacks."""
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["rich"]
