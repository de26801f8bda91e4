"""`broker-agent`: set an agent up, run it, look at it. The only place that ends the process."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from broker_client.runtime.program import run_service, run_tool
from broker_client.runtime.stdio import STDOUT, tell
from schemas.faults import Refused
from schemas.spans import span_s

if TYPE_CHECKING:
    from cyclopts import App

    from broker_agent.store.identity_slots import AgentFacts

_TOKEN_MAX: Final = 64 * 1024


def build() -> "App":
    """Build the command line, imported late: a running agent does not load it."""
    from cyclopts import App

    from broker_agent.cli.profile import profile
    from broker_agent.services.enrolment import product_version

    app = App(
        name="broker-agent",
        help="The process on a host that runs tasks.",
        version=product_version,
        result_action="return_value",
    )
    for command in (setup, run, status, doctor, profile):
        app.command(command)
    return app


def setup(*, state_dir: Path, token: str) -> None:
    """Make this host an agent: keys are made here, the activation token is used up.

    Parameters
    ----------
    state_dir
        The agent's folder; made if it is missing.
    token
        The activation token, or - to read it from standard input.
    """
    import asyncio

    from broker_agent.services.enrolment import enrol
    from broker_client.runtime.clock import SystemClock
    from broker_client.runtime.logs import configure_logs

    configure_logs("error")
    text = sys.stdin.read(_TOKEN_MAX) if token == "-" else token  # noqa: S105  (a dash, no secret)
    facts = asyncio.run(enrol(state_dir.absolute(), text, SystemClock()))
    print(f"agent {facts.agent} of group {facts.group} is set up in {state_dir}")
    print(f"start it:  broker-agent run --state-dir {state_dir}")


def run(
    *,
    state_dir: Path,
    slots: int | None = None,
    urls: list[str] | None = None,
    config: Path | None = None,
    print_config: bool = False,
    log_level: str | None = None,
    token_file: Path | None = None,
) -> None:
    """Run the agent until it is asked to stop. Prints one line when its master lists it as active.

    Parameters
    ----------
    state_dir
        The folder that `setup` made.
    slots
        How many tasks may run at once; 0 is four per core.
    urls
        Brokers to use instead of those of the enrolment.
    config
        A TOML file with settings.
    print_config
        Print every setting with its source, and end.
    log_level
        debug, info, warning or error.
    token_file
        A file with an activation token, with which the agent is set up if the folder holds none.
    """
    from broker_agent.settings import load_agent_settings
    from broker_client.runtime import failpoints

    failpoints.arm(os.environ)
    flags = {"slots": slots, "urls": urls, "log_level": log_level}
    loaded = load_agent_settings(os.environ, flags, config)
    if print_config:
        sys.stdout.write(loaded.render())
        return
    folder = state_dir.absolute()
    if token_file is not None:
        _set_up_once(folder, token_file)
    if not folder.is_dir():
        raise Refused("state_missing", f"{state_dir} does not exist")
    # exec drops the modules of the command line: a sixth of the memory remains.
    order = json.dumps({"flags": flags, "config": config and str(config.absolute())})
    program = [sys.executable, "-m", "broker_agent", str(folder), order]
    sys.stdout.flush()
    os.execv(program[0], program)  # noqa: S606  (ourselves)


def _set_up_once(folder: Path, token_file: Path) -> None:
    """Enrol on the first start of a host or container; an existing agent is kept."""
    import asyncio

    from broker_agent.services.enrolment import enrol
    from broker_agent.store.identity_slots import IdentitySlots
    from broker_client.runtime.clock import SystemClock
    from broker_client.runtime.files import read_given
    from broker_client.runtime.logs import configure_logs

    if folder.is_dir() and IdentitySlots(folder).facts() is not None:
        return
    configure_logs("error")
    asyncio.run(enrol(folder, read_given(token_file).strip(), SystemClock()))


def status(
    *, state_dir: Path, output: Literal["table", "json"] = "table", check: bool = False
) -> None:
    """Show who the agent in a folder is, and whether it runs and is linked.

    Parameters
    ----------
    state_dir
        The folder that `setup` made.
    output
        A table for people, or JSON.
    check
        End with 7 unless it runs and is linked to its master.
    """
    facts = _describe(state_dir.absolute())
    if output == "json":
        print(json.dumps(facts, indent=2))
    else:
        from broker_client.cli.screen.tables import facts as lines

        print("\n".join(lines([(_NAMES.get(n, n), _shown(v)) for n, v in facts.items()])))
    if check and not (facts["running"] and facts["reconciled"]):
        what = "is not linked to its master" if facts["running"] else "does not run"
        raise Refused("not_ready", f"agent {facts['agent']} {what}")


# Names of facts for people, where those of JSON are not plain.
_NAMES: Final = {
    "urls": "brokers",
    "certificate_serial": "serial",
    "certificate_not_after": "certificate until",
    "lease_age_s": "lease age",
    "fence_in_s": "fenced in",
    "profile_problems": "profile problems",
}


def _shown(value: object) -> str:
    """Return a fact as `mesh` shows it: yes or no, lengths in units, times here and in UTC."""
    from broker_client.cli.screen.tables import duration, local_and_utc

    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return duration(max(0.0, value))
    return "" if value is None else local_and_utc(str(value))


def doctor(
    *,
    state_dir: Path,
    config: Path | None = None,
    timeout: str = "10s",
    output: Literal["table", "json"] = "table",
) -> None:
    """Check the way from this host's disk to the broker; exit code 1 if a check fails.

    Parameters
    ----------
    state_dir
        The folder that `setup` made.
    config
        A TOML file with settings, if `run` is given one.
    timeout
        How long to wait for each answer: 10 (seconds), 1m.
    output
        Numbered findings for people, or JSON.
    """
    import msgspec

    from broker_agent.services.doctor import examine
    from broker_agent.settings import load_agent_settings
    from broker_client.cli.doctor.findings import Finding, Findings, lines_of
    from broker_client.runtime.logs import configure_logs

    configure_logs("error")
    settings = load_agent_settings(os.environ, {}, config).value

    def show(finding: Finding) -> None:
        if output == "table":
            print("\n".join(lines_of(finding)), flush=True)

    def say(text: str) -> None:
        print(f"broker-agent: {text}", file=sys.stderr, flush=True)

    wait_s = _span_s("--timeout", timeout)
    findings = examine(state_dir.absolute(), settings, wait_s, Findings(show, say))
    if output == "json":
        told = [msgspec.to_builtins(finding) for finding in findings]
        print(json.dumps({"ok": not findings.is_failed, "findings": told}, indent=2))
    if findings.is_failed:
        sys.exit(1)


def _span_s(option: str, text: str) -> float:
    """Convert a duration to seconds; raises Refused (`field_invalid`) that names the option."""
    try:
        return span_s(text)
    except ValueError as error:
        raise Refused("field_invalid", f"{option}: {error}") from error


def _describe(state_dir: Path) -> dict[str, Any]:
    from broker_agent.services.status import read_status
    from broker_agent.store.identity_slots import IdentitySlots
    from broker_client.runtime.clock import SystemClock
    from broker_client.runtime.files import lock_directory, os_errors
    from schemas.moments import rfc3339

    with os_errors(state_dir, "read"):
        os.scandir(state_dir).close()
    identity = IdentitySlots(state_dir).facts()
    if identity is None:
        raise Refused("state_missing", f"{state_dir} holds no identity of an agent")
    running = False
    try:
        lock_directory(state_dir).release()
    except Refused as error:
        if error.code != "state_locked":
            raise
        running = True
    state = read_status(state_dir) if running else None
    now_s = SystemClock().elapsed()
    return {
        "agent": identity.agent,
        "group": identity.group,
        "mesh": identity.mesh,
        "urls": ", ".join(identity.urls),
        "certificate_serial": identity.serial,
        "certificate_not_after": rfc3339(identity.not_after),
        "running": running,
        "pid": state.pid if state else None,
        "incarnation": state.incarnation if state else None,
        "epoch": state.epoch if state else None,
        "connected": bool(state and state.connected),
        "link": state.link if state else None,
        "reconciled": bool(state and state.reconciled),
        "draining": bool(state and state.draining),
        "full": state.full if state else None,
        "reason": state.reason if state else None,
        "since": state.since if state else None,
        "lease_age_s": _tenths(state.lease_age_at(now_s)) if state else None,
        "fence_in_s": _tenths(state.fence_in(now_s)) if state else None,
        "profiles": ", ".join(state.profiles) if state else None,
        "profile_problems": "; ".join(state.profile_problems.values()) if state else None,
    }


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    from broker_client.cli.shell.tool import call_tool
    from broker_client.cli.words import asked_output

    is_json = asked_output(sys.argv[1:]) == "json"
    run_tool("broker-agent", lambda: call_tool(build(), _joined(sys.argv[1:])), is_json=is_json)


def _joined(tokens: Sequence[str]) -> list[str]:
    """Turn `--token -` into `--token=-`, since the parser reads a lone dash as an option."""
    joined: list[str] = []
    for token in tokens:
        if token == "-" and joined and joined[-1] == "--token":  # noqa: S105  (no secret)
            joined[-1] = "--token=-"
        else:
            joined.append(token)
    return joined


def become_agent(arguments: Sequence[str]) -> NoReturn:
    """Run the agent in this process, without the modules of the command line."""
    run_service("broker-agent", lambda: _run_agent(Path(arguments[0]), json.loads(arguments[1])))


def _run_agent(state_dir: Path, order: dict[str, Any]) -> None:
    # structlog imports rich for tracebacks if it is installed: 5 MiB that an agent does not use.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    import asyncio
    import gc

    from broker_agent.app import run_agent
    from broker_agent.services.enrolment import product_version
    from broker_agent.settings import load_agent_settings
    from broker_client.runtime import failpoints
    from broker_client.runtime.logs import configure_logs
    from broker_client.runtime.notify import ServiceManager

    failpoints.arm(os.environ)
    config = Path(order["config"]) if order["config"] else None
    settings = load_agent_settings(os.environ, order["flags"], config).value
    configure_logs(settings.log_level)
    # Modules are never freed: the garbage collector need not traverse them.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    manager = ServiceManager.take_from(os.environ)
    if asyncio.run(run_agent(state_dir, settings, _say_ready, product_version(), manager)):
        # The service manager sees the same process, the master a new incarnation.
        manager.give_to(os.environ)
        program = [sys.executable, "-m", "broker_agent", str(state_dir), json.dumps(order)]
        os.execv(program[0], program)  # noqa: S606  (ourselves)


def _say_ready(facts: "AgentFacts") -> None:
    tell(f"ready agent={facts.agent} group={facts.group}\n", STDOUT)
