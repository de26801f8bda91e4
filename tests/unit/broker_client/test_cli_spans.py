"""Lengths of time as people write them."""

import pytest

from broker_client.cli.spans import moment_of, span_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("30d", 2_592_000.0)],
)
def test_span_has_one_unit(text: str, seconds: float) -> None:
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0d", "-1h", "1h30m", "forever", "1 h", "nan", "1e3"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no length of time"):
        span_s(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:01:40+00:00", 100.0),
        ("1970-01-02T00:00:00Z", 86_400.0),
        ("30d", 10_000_000.0 - 30 * 86_400),
        ("90", 10_000_000.0 - 90),
    ],
)
def test_moment_is_a_date_or_so_long_ago(text: str, moment: float) -> None:
    assert moment_of(text, now=10_000_000.0) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "12 parsecs", "2026-13-01", "-3d"])
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="2026-01-31, 12h, 30d"):
        moment_of(text)
