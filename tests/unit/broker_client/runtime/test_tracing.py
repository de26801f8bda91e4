"""Trace context: the parts that are passed on, and those that are not."""

import sys
from types import SimpleNamespace

import pytest

from broker_client.runtime import tracing

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_without_a_trace_there_is_no_header() -> None:
    assert tracing.headers() is None


def test_context_goes_along_inside_its_block_only() -> None:
    with tracing.use(GOOD):
        assert tracing.headers() == {"traceparent": GOOD}
    assert tracing.headers() is None


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "traceparent",
        GOOD.upper(),
        GOOD + "-00",
        "ff" + GOOD[2:],
        GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        GOOD.replace("00f067aa0ba902b7", "0" * 16),
        GOOD + "\n",
        f"{GOOD}\nLD_PRELOAD=/tmp/x",
    ],
)
def test_malformed_trace_context_is_ignored(bad: str) -> None:
    assert tracing.checked(bad) == ""
    assert tracing.of_headers({"traceparent": bad}) == ""
    with tracing.use(bad):
        assert tracing.headers() is None


def test_name_of_the_header_is_read_in_any_case() -> None:
    assert tracing.of_headers({"Content-Type": "x", "TraceParent": GOOD}) == GOOD
    assert tracing.of_headers({"tracestate": "a=b"}) == ""


def test_present_span_is_used_where_opentelemetry_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = SimpleNamespace(is_valid=True, trace_id=0x4BF9, span_id=0xF067, trace_flags=1)
    span = SimpleNamespace(get_span_context=lambda: context)
    fake = SimpleNamespace(get_current_span=lambda: span)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", fake)
    assert tracing.headers() == {"traceparent": f"00-{0x4BF9:032x}-{0xF067:016x}-01"}
    with tracing.use(GOOD):
        assert tracing.headers() == {"traceparent": GOOD}
    context.is_valid = False
    assert tracing.headers() is None
