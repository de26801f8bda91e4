"""One command for people: its record, its present state, and its timeline."""

import shlex
import time
from typing import Final

from broker_client.cli.command.ledger import exit_of
from broker_client.cli.command.timeline import timeline
from broker_client.cli.options import Common
from broker_client.cli.screen.report import plain, print_json, print_lines
from broker_client.cli.screen.size import screen_width
from broker_client.cli.screen.tables import facts, in_local_time, local_and_utc
from broker_client.cli.screen.terminal import shown
from schemas.argv import quoted
from schemas.listed import RETRY_OF, last_agent
from schemas.messages.facts import CommandRecord
from schemas.subjects import STDERR, STDOUT
from schemas.texts import visible

# Lines of each stream shown with the record.
_LAST: Final = 5


def print_command(common: Common, record: CommandRecord) -> None:
    if common.output == "json":
        print_json(record)
    else:
        story = timeline(record, screen_width())
        print_lines(common, [*described(record, time.time()), "", *story, *last_lines(record)])


def last_lines(record: CommandRecord) -> list[str]:
    """Return the last lines of each stream with output; none if the output is too large."""
    said = []
    for name, data in (
        (STDOUT, record.output.stdout if record.output else b""),
        (STDERR, record.output.stderr if record.output else b""),
    ):
        lines = data.decode("utf-8", "backslashreplace").rstrip().splitlines()
        if lines:
            left = f", {len(lines) - _LAST} before: mesh command logs {record.id}"
            said += ["", f"last of {name}{left if len(lines) > _LAST else ''}"]
            said += [f"  {shown(line)}" for line in lines[-_LAST:]]
    return said


def described(record: CommandRecord, now: float) -> list[str]:
    """Return the lines about a command. now: unix time, for the time left to the next step."""
    return facts(
        [
            ("id", record.id),
            ("state", _since(record)),
            ("reason", record.reason),
            ("next", in_local_time(record.next, now)),
            ("exit code", exit_of(record)),
            ("group", record.group),
            ("agent", last_agent(record)),
            ("connection", record.connection or ""),
            ("action", record.action),
            ("program", record.program),
            *_arguments(record),
            ("client", record.client),
            ("retry of", record.labels.get(RETRY_OF, "")),
            ("labels", ", ".join(f"{name}={value}" for name, value in record.labels.items())),
            ("effect", _last(record, "effect")),
            ("code", _last(record, "code")),
            ("result", result_text(record)),
            ("output", _sizes(record)),
            ("last output", local_and_utc(record.last_output_at)),
            ("not whole", _cut(record)),
        ]
    )


def _arguments(record: CommandRecord) -> list[tuple[str, str]]:
    """Return facts that the program's line lacks; all arguments if that line is cut."""
    given = record.arguments
    if given is None:
        return []
    whole = visible(quoted(given.argv))
    # Programs of masters before the quotes of `$'…'`.
    is_shown = record.program in (whole, visible(shlex.join(given.argv)))
    return [
        ("arguments", "" if is_shown else whole),
        ("directory", given.cwd or ""),
        ("environment", ", ".join(given.env)),
        ("input", f"{given.stdin_bytes} bytes" if given.stdin_bytes else ""),
        ("time limit", f"{given.timeout_s:g} s" if given.timeout_s else ""),
    ]


def _last(record: CommandRecord, name: str) -> str:
    """Return a field of the last attempt."""
    return str(getattr(record.attempts[-1], name)) if record.attempts else ""


def result_text(record: CommandRecord) -> str:
    """Return the result of an action on one line: `rows 3, columns id name`; empty without one."""
    return ", ".join(f"{name} {text}" for name, text in result_pairs(record))


def result_pairs(record: CommandRecord) -> list[tuple[str, str]]:
    """Return names and values of the result of an action, as texts."""
    found = plain(record.result or {})
    pairs = found.items() if isinstance(found, dict) else ()
    return [(str(name), _told(value)) for name, value in pairs if value is not None]


def _told(value: object) -> str:
    if isinstance(value, list):
        return " ".join(_told(each) for each in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={_told(each)}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _since(record: CommandRecord) -> str:
    since = record.since or record.ended_at
    return f"{record.state} since {local_and_utc(since)}" if since else record.state


def _cut(record: CommandRecord) -> str:
    """Return the parts of the record that the master has shortened."""
    return f"{', '.join(record.cut)}: too long for one record" if record.cut else ""


def _sizes(record: CommandRecord) -> str:
    if not record.ended_at:
        # The sizes come with the outcome, which is missing so far.
        return ""
    sizes = f"{record.stdout_bytes} bytes of stdout, {record.stderr_bytes} of stderr"
    return f"{sizes}, cut at its limit" if record.truncated else sizes
