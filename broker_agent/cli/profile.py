"""`broker-agent profile`: the profiles of connections on this host."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from schemas.faults import Expired, Refused

if TYPE_CHECKING:
    from broker_agent.connectors.trial import TrialEnd
    from broker_agent.services.profile_desk import ProfileRow
    from broker_agent.settings import AgentSettings

What = Literal["list", "check", "test", "reload"]
# Steps of a test, in their order; a kind has those that it needs.
STEPS: Final = ("resolve", "connect", "tls", "login", "query")
HASH_LEN: Final = 8


def profile(
    what: What,
    name: str = "",
    /,
    *,
    state_dir: Path,
    config: Path | None = None,
    timeout: str = "30s",
    output: Literal["table", "json"] = "table",
) -> None:
    """List, check or test the profiles of this host, or let its agent read them again.

    Parameters
    ----------
    what
        list: all, and what the agent uses. check: exit code 1 if one has a problem. test: reach the
        system of one, from here and as this user. reload: let the agent read all files at once.
    name
        One profile, instead of all.
    state_dir
        The folder that `setup` made.
    config
        A TOML file with settings, if `run` is given one.
    timeout
        How long to wait for a test or a reload: 30 (seconds), 1m.
    output
        A table for people, or JSON.
    """
    from broker_agent.settings import load_agent_settings
    from broker_client.runtime.files import os_errors
    from broker_client.runtime.logs import configure_logs

    configure_logs("error")
    settings = load_agent_settings(os.environ, {}, config).value
    folder, wait_s = state_dir.absolute(), _span_s(timeout)
    with os_errors(folder, "read"):
        os.scandir(folder).close()
    if what == "test":
        _test(folder, settings, name, wait_s, output)
        return
    if what == "reload":
        from broker_agent.services.profile_desk import reload

        reload(folder, wait_s)
    found, strays = _rows(folder, settings, name)
    for stray in strays:
        print(f"broker-agent: {stray}", file=sys.stderr)
    if what == "check":
        _judge(found, output)
    else:
        _show(found, output)


def _span_s(text: str) -> float:
    from schemas.spans import span_s

    try:
        return span_s(text)
    except ValueError as error:
        raise Refused("field_invalid", f"--timeout: {error}") from error


def _rows(
    folder: Path, settings: "AgentSettings", name: str
) -> tuple[list["ProfileRow"], list[str]]:
    from broker_agent.services import profile_desk

    found, strays = profile_desk.rows(folder, settings)
    if not name:
        return found, strays
    named = [each for each in found if each.name == name]
    if not named:
        profile_desk.find(folder, settings, name)
    return named, []


def _print_json(found: Sequence["ProfileRow"]) -> None:
    import msgspec

    print(json.dumps([msgspec.to_builtins(each) for each in found], indent=2))


def _show(found: Sequence["ProfileRow"], output: str) -> None:
    if output == "json":
        _print_json(found)
        return
    head = ("NAME", "KIND", "STATE", "HASH", "IN USE", "FILE", "PROBLEM")
    rows = [
        (
            each.name,
            each.kind,
            each.state,
            each.hash[:HASH_LEN],
            each.in_use[:HASH_LEN],
            each.file,
            each.problem.removeprefix(each.file).removeprefix(":").lstrip(),
        )
        for each in found
    ]
    _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from broker_client.cli.screen.size import screen_width
    from broker_client.cli.screen.tables import Column, fit

    least = {"PROBLEM": 24, "REASON": 24, "SERVER": 12, "FILE": 16}
    columns = [Column(each, least=least.get(each, 0)) for each in head]
    print("\n".join(fit(columns, rows, screen_width()).lines))


def _judge(found: Sequence["ProfileRow"], output: str) -> None:
    """Print a line for each finding, with its file and line; exit with 1 for a problem."""
    from broker_client.cli.screen.terminal import shown

    if output == "json":
        _print_json(found)
    for each in found if output == "table" else ():
        print(shown(each.problem or f"{each.file}: ok: {each.kind} {each.hash[:HASH_LEN]}"))
        for warning in each.warnings:
            print(shown(f"{each.file}: warning: {warning}"))
    if any(each.problem for each in found):
        sys.exit(1)


def _test(folder: Path, settings: "AgentSettings", name: str, wait_s: float, output: str) -> None:
    """Reach the system once, in a process that ends with it. The exit code is the fault's."""
    from broker_agent.connectors.trial import TrialEnd
    from broker_agent.services import profile_desk, trial

    if not name:
        raise Refused("field_invalid", "name: `profile test` needs the name of a profile")
    usable = profile_desk.find(folder, settings, name)
    said = [*trial.run_trial("test", usable, others=set(), timeout_s=wait_s)]
    end = next((each for each in said if isinstance(each, TrialEnd)), None)
    steps = {each.step: each.seconds for each in said if not isinstance(each, TrialEnd)}
    _show_test(usable.hash, steps, end, output)
    if end is None:
        raise Expired("target_timeout", f"{name}: no end within {wait_s:g} s")
    if end.code:
        raise Refused(end.code, f"{name}: {end.message}")


def _show_test(
    hash: str,
    steps: dict[str, float],
    end: "TrialEnd | None",
    output: str,
) -> None:
    result = "ok" if end is not None and not end.code else "failed"
    reason = end.message if end is not None else "no answer in time"
    if output == "json":
        told: dict[str, Any] = {"result": result, "profile": hash, "steps": steps}
        told |= {"server": end.server if end else "", "reason": reason}
        print(json.dumps(told, indent=2))
        return
    known = [*STEPS, *(step for step in steps if step not in STEPS)]
    head = ("RESULT", *(step.upper() for step in known), "SERVER", "PROFILE", "REASON")
    times = [_milliseconds(steps[step]) if step in steps else "" for step in known]
    _table(head, [(result, *times, end.server if end else "", hash[:HASH_LEN], reason)])


def _milliseconds(seconds: float) -> str:
    """Time of a step, as `mesh connection test` shows it."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
