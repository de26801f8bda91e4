"""Propagation of a trace context from the caller to the environment of the task.

    with tracing.use("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"):
        await mesh.run(["make"], group="build")

A process that has OpenTelemetry loaded needs no `use`: its present span is sent. Without both, no
header is sent and nothing is imported. Source: W3C Trace Context, section 3.2.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

HEADER: Final = "traceparent"
VARIABLE: Final = "TRACEPARENT"
_SHAPE: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_current: ContextVar[str] = ContextVar("traceparent", default="")


def checked(text: str) -> str:
    """Return `text` if it is a context of version 00, else ""; invalid ones are ignored."""
    return text if text and _SHAPE.fullmatch(text) else ""


@contextmanager
def use(traceparent: str) -> Iterator[None]:
    """Send this context with every request of the block."""
    token = _current.set(checked(traceparent))
    try:
        yield
    finally:
        _current.reset(token)


def headers() -> dict[str, str] | None:
    """Return the header for a request made now; None without a trace."""
    found = _current.get() or _from_opentelemetry()
    return {HEADER: found} if found else None


def of_headers(given: Mapping[str, str]) -> str:
    """Return the context in the headers of a request, or "". Header names match in any case."""
    for name, value in given.items():
        if name.lower() == HEADER:
            return checked(value)
    return ""


def _from_opentelemetry() -> str:
    """Return the present span if this process uses OpenTelemetry, else ""."""
    if "opentelemetry.trace" not in sys.modules:
        return ""
    span = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return checked(f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}")
