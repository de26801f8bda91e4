"""Logs: one shape, and no secret in them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from broker_client.runtime.logs import REDACTED, configure_logs, is_secret_name
from schemas.faults import Refused


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_with_level_time_and_bound_fields() -> None:
    out = io.StringIO()
    configure_logs("info", stream=out, agent_id="web-1")
    structlog.get_logger().info("run_finished", after_s=3.2, body=b"\xff")
    (line,) = lines(out)
    assert line.pop("at", "") != ""
    assert line == {
        "event": "run_finished",
        "level": "info",
        "agent_id": "web-1",
        "after_s": 3.2,
        "body": "b'\\xff'",
    }


def test_person_at_a_terminal_gets_text() -> None:
    out = Terminal()
    configure_logs("info", stream=out)
    structlog.get_logger().info("run_finished", token="abc123")
    assert "run_finished" in out.getvalue()
    assert "abc123" not in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_levels_below_the_setting_are_dropped() -> None:
    out = io.StringIO()
    configure_logs("warning", stream=out)
    structlog.get_logger().info("hidden")
    structlog.get_logger().warning("shown")
    assert [line["event"] for line in lines(out)] == ["shown"]
    with pytest.raises(Refused, match="chatty"):
        configure_logs("chatty")


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "activation_token",
        "secret",
        "seed",
        "key",
        "private_key",
        "jwt",
        "args",
        "password",
    ],
)
def test_secret_fields_are_blotted_out_at_any_depth(name: str) -> None:
    out = io.StringIO()
    configure_logs("info", stream=out)
    structlog.get_logger().info("x", **{name: "hunter2"}, deep=[{"a": {name: b"hunter2"}}])
    assert "hunter2" not in out.getvalue()
    assert lines(out)[0][name] == REDACTED


@pytest.mark.parametrize("name", ["keys_rotated", "agent", "keyboard", "monkey", "not_after"])
def test_ordinary_fields_stay(name: str) -> None:
    assert not is_secret_name(name)


def test_exceptions_and_lines_of_libraries_come_in_the_same_shape() -> None:
    out = io.StringIO()
    configure_logs("info", stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("task_failed")
    logging.getLogger("nats.aio.client").error("encountered error")
    logging.getLogger("nats.aio.client").info("chatter")
    first, second = lines(out)
    assert "ValueError: broken" in str(first["exception"])
    assert (second["event"], second["text"]) == ("library_logged", "encountered error")
