"""Links for tests, ended whatever happens."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from broker_client.runtime.link import Link, LinkIdentity


@contextlib.asynccontextmanager
async def connected(
    *urls: str,
    name: str = "test",
    **options: Any,  # noqa: ANN401  whatever Link.connect takes
) -> AsyncIterator[Link]:
    """A link without credentials to a plain server."""
    link = await Link.connect(urls, LinkIdentity, name, f"_INBOX_{name}", **options)
    try:
        yield link
    finally:
        await link.close(1)
