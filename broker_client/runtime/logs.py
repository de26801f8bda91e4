"""Logging of a process: JSON lines on stderr, or colours for a person at a terminal.

A secret that is logged by mistake is blotted out by the name of its field: the last net, not a
licence to log arguments.
"""

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from broker_client.runtime.rates import TokenBucket
from broker_client.runtime.stdio import LogFile, log_file
from schemas.faults import Refused

REDACTED: Final = "[redacted]"
LEVELS: Final = ("debug", "info", "warning", "error")
# Parts of field names; `args` are what a client passes to an action, which may hold anything.
_SECRET_PARTS: Final = ("token", "secret", "seed", "password", "passphrase", "jwt", "creds")
_SECRET_NAMES: Final = frozenset(
    {"key", "args", "env", "stdin", "argv", "payload", "authorization"}
)
_DEPTH: Final = 4

_of_process: dict[str, object] = {}


def configure_logs(
    level: str, *, stream: TextIO | None = None, is_bounded: bool = False, **bound: str
) -> None:
    """Set up logging of this process; `bound` fields (`agent_id=…`) ride on every line.

    is_bounded: of one kind of line, of one speaker, only so many are written (`LineLimits`).

    level: one of `LEVELS`, else Refused (`settings_invalid`). A person's terminal gets the console
    renderer, everything else JSON. A line that cannot be written is lost, and nothing else. Lines
    of libraries that use `logging` appear from warning on.
    """
    if level not in LEVELS:
        raise Refused("settings_invalid", f"log level {level!a} is none of {', '.join(LEVELS)}")
    out = log_file() if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_process,
        *([LineLimits()] if is_bounded else []),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.StackInfoRenderer(), *_renderers(out)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    _of_process.clear()
    structlog.contextvars.bind_contextvars(**bound)
    _route_standard_logging(number)


def keep_out_of_the_way() -> None:
    """For a library in somebody else's program: warnings to stderr, and nothing to its stdout.

    A program that has configured structlog itself is left alone.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[_only_warnings, redact, *structlog.get_config()["processors"]],
        logger_factory=lambda *_: structlog.WriteLogger(cast("TextIO", log_file())),
    )


class LineLimits:
    """Leaves out lines of a kind that one speaker causes again and again.

    Each kind of line (`event`) of each speaker (`agent`, `client`, `speaker`) has a budget of its
    own; the next one that is written says how many are missing (`left_out`). Lines that are the
    last place where something is kept are always written.
    """

    _PER_S: Final = 0.5
    _BURST: Final = 30.0
    # Lines that name no speaker are of the process itself: those of a start come in great numbers.
    _OWN_PER_S: Final = 10.0
    _OWN_BURST: Final = 1000.0
    _KEYS_MAX: Final = 4096
    _ALWAYS: Final = frozenset({"audit_lost"})

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._budgets: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()
        self._left_out: dict[tuple[str, str], int] = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        kind = str(event.get("event", ""))
        if kind in self._ALWAYS:
            return event
        speaker = event.get("agent") or event.get("client") or event.get("speaker") or ""
        key = (kind, str(speaker)[:64])
        if not self._bucket(key).take(self._clock()):
            self._left_out[key] = self._left_out.get(key, 0) + 1
            raise structlog.DropEvent
        missing = self._left_out.pop(key, 0)
        return {**event, "left_out": missing} if missing else event

    def _bucket(self, key: tuple[str, str]) -> TokenBucket:
        bucket = self._budgets.get(key)
        if bucket is None:
            per_s, burst = (
                (self._PER_S, self._BURST) if key[1] else (self._OWN_PER_S, self._OWN_BURST)
            )
            bucket = self._budgets[key] = TokenBucket(per_s=per_s, burst=burst)
            if len(self._budgets) > self._KEYS_MAX:
                oldest, _ = self._budgets.popitem(last=False)
                self._left_out.pop(oldest, None)
        self._budgets.move_to_end(key)
        return bucket


def _only_warnings(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if method in ("debug", "info"):
        raise structlog.DropEvent
    return event


def bind_process(**fields: object) -> None:
    """Fields that ride on every line from now on, whichever task or callback it comes from."""
    _of_process.update(fields)


def _with_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**_of_process, **event} if _of_process else event


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace values of fields whose names say that they are secret, at any depth up to 4."""
    return _redacted(event, _DEPTH)


def is_secret_name(name: str) -> bool:
    lower = name.lower()
    if lower in _SECRET_NAMES or lower.endswith(("_key", "-key", "apikey")):
        return True
    return any(part in lower for part in _SECRET_PARTS)


def _redacted(fields: Mapping[Any, Any], depth: int) -> MutableMapping[str, Any]:
    return {
        name: REDACTED if is_secret_name(str(name)) else _clean(value, depth)
        for name, value in fields.items()
    }


def _clean(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        return _redacted(value, depth - 1) if depth > 0 else REDACTED
    if isinstance(value, list | tuple):
        return [_clean(item, depth - 1) for item in value] if depth > 0 else REDACTED
    return value


def _renderers(out: TextIO | LogFile) -> list[Processor]:
    with contextlib.suppress(ValueError):  # a closed stream has no answer
        if out.isatty():
            return [structlog.dev.ConsoleRenderer()]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(sort_keys=False, default=repr),
    ]


class _ToStructlog(logging.Handler):
    """Lines of libraries, in our shape; nats-py for one logs through `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        method = "error" if record.levelno >= logging.ERROR else "warning"
        logger = structlog.get_logger(record.name)
        getattr(logger, method)(
            "library_logged", text=record.getMessage(), exc_info=record.exc_info or None
        )


def _route_standard_logging(number: int) -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _ToStructlog):
            root.removeHandler(handler)
    root.addHandler(_ToStructlog())
    root.setLevel(max(number, logging.WARNING))
