"""Logging of a process: JSON lines on stderr, or coloured lines on a terminal.

A secret that is logged by mistake is redacted by the name of its field, as the last safeguard.
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
# Parts of names of secret fields; the `args` of an action may hold secrets as well.
_SECRET_PARTS: Final = ("token", "secret", "seed", "password", "passphrase", "jwt", "creds")
_SECRET_NAMES: Final = frozenset(
    {"key", "args", "env", "stdin", "argv", "payload", "authorization"}
)
_DEPTH: Final = 4

_of_process: dict[str, object] = {}


def configure_logs(
    level: str, *, stream: TextIO | None = None, is_bounded: bool = False, **bound: str
) -> None:
    """Set up logging of this process; `bound` fields (`agent_id=…`) are on every line.

    is_bounded: apply a rate limit to each kind of line of each speaker (`LineLimits`).

    level: one of `LEVELS`, else Refused (`settings_invalid`). A terminal gets the console renderer,
    all other outputs JSON. A line that cannot be written is lost, without another effect. Lines of
    libraries that use `logging` appear from level warning on.
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
    """Log only warnings, to stderr, as a library in another program.

    The configuration of a program that uses structlog itself stays.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[_only_warnings, redact, *structlog.get_config()["processors"]],
        logger_factory=lambda *_: structlog.WriteLogger(cast("TextIO", log_file())),
    )


class LineLimits:
    """Rate limit of log lines, by kind and by speaker.

    Each kind of line (`event`) of each speaker (`agent`, `client`, `speaker`) has its own budget;
    the next written line has the number of suppressed ones (`left_out`). Lines that are the only
    record of a loss are always written.
    """

    _PER_S: Final = 0.5
    _BURST: Final = 30.0
    # Lines without a speaker are the process's own; a start writes many of them.
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
    """Add fields to every later line, of all tasks and callbacks."""
    _of_process.update(fields)


def _with_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {**_of_process, **event} if _of_process else event


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace values of fields with secret names, at any depth up to 4."""
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
    with contextlib.suppress(ValueError):  # of a closed stream
        if out.isatty():
            return [structlog.dev.ConsoleRenderer()]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(sort_keys=False, default=repr),
    ]


class _ToStructlog(logging.Handler):
    """Converts lines of libraries that use `logging`, such as nats-py."""

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
