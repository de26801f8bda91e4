"""The tree of commands, and the handling of their errors.

Commands are named here and imported on use: `mesh --help` must not wait for them, nor for the
libraries that parse and connect.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from broker_client.cli.words import HELP_FLAGS, NOUNS, asked_output, hoist, with_mark
from broker_client.runtime.stdio import OutputFailed, give_up_output, settle_output

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

    from broker_client.cli.words import Output

_PACKAGE: Final = "broker_client.cli"
_HELP: Final = """Run programs on hosts that nobody can reach, and see what became of them.

Every command takes --context, --output table|json, --timeout and --no-color.
"""

# Noun or command, verb, function, one line of help.
COMMANDS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("run", "", "run.program:run", "Run a program on an agent, or on many, and show its output."),
    ("top", "", "mesh.top:top", "Show mesh, groups, agents and open commands, live."),
    (
        "completion",
        "",
        "shell.completion:completion",
        "Print what a shell needs to complete `mesh`.",
    ),
    ("ping", "", "agent.ping:ping", "See which agents answer, and how fast."),
    ("events", "", "mesh.events:events", "Show what happened, and what happens, a line each."),
    ("status", "", "mesh.status:status", "Show the mesh at a glance."),
    ("doctor", "", "doctor.client:doctor", "Check the way from here to the master, step by step."),
    ("command", "list", "command.manage:list_", "List commands, newest first."),
    ("command", "show", "command.manage:show", "Show a command and the timeline of its attempts."),
    ("command", "wait", "command.manage:wait", "Wait until a command has ended."),
    (
        "command",
        "cancel",
        "command.many:cancel",
        "Ask for the end of commands, by id or by filter.",
    ),
    ("command", "retry", "command.many:retry", "Submit commands again, under new ids."),
    ("command", "logs", "command.logs:logs", "Write a command's output as it was printed."),
    (
        "command",
        "decide",
        "command.manage:decide",
        "Say what becomes of a command that waits for it.",
    ),
    ("fanout", "list", "fanout.manage:list_", "List fan-outs, newest first."),
    ("fanout", "show", "fanout.manage:show", "Show a fan-out and what became of it on each agent."),
    ("fanout", "wait", "fanout.manage:wait", "Wait until a fan-out has ended."),
    ("fanout", "cancel", "fanout.manage:cancel", "Ask no more agents, and end what runs."),
    (
        "fanout",
        "retry",
        "fanout.manage:retry",
        "Run a fan-out again, where it failed or everywhere.",
    ),
    ("deadletter", "list", "command.deadletter:list_", "List dead letters, the last one first."),
    ("deadletter", "show", "command.deadletter:show", "Show a dead letter and its timeline."),
    (
        "deadletter",
        "retry",
        "command.deadletter:retry",
        "Submit a dead letter again, under a new id.",
    ),
    ("group", "create", "group.manage:create", "Create a group."),
    ("group", "set", "group.manage:set_", "Change how a group shares its work."),
    ("group", "list", "group.manage:list_", "List groups."),
    ("group", "show", "group.manage:show", "Show one group and its agents."),
    ("group", "rotate", "agent.rotate:group", "Renew the certificates of a group's agents."),
    ("group", "delete", "group.manage:delete", "Delete a group that has no agents."),
    ("agent", "create", "agent.manage:create", "Create an agent and print its activation token."),
    ("agent", "token", "agent.manage:token", "Print a new activation token for an agent."),
    ("agent", "set", "agent.manage:set_", "Change an agent's tags, weight, priority or limit."),
    ("agent", "list", "agent.listing:list_", "List agents, with status and reason."),
    ("agent", "show", "agent.manage:show", "Show one agent."),
    ("agent", "enable", "agent.manage:enable", "Let an agent take commands again."),
    ("agent", "disable", "agent.drain:disable", "Give an agent no new commands."),
    ("agent", "pause", "agent.drain:pause", "Give an agent no new commands for a while."),
    ("agent", "rotate", "agent.rotate:agent", "Renew an agent's certificate now."),
    ("agent", "move", "agent.drain:move", "Move an agent to another group once it is empty."),
    ("agent", "revoke", "agent.manage:revoke", "Refuse an agent's credentials from now on."),
    ("agent", "delete", "agent.manage:delete", "Remove an agent; its credentials are refused."),
    ("agent", "forget", "agent.forget:forget", "Delete agents that have been silent for long."),
    ("audit", "list", "mesh.audit:list_", "List who did what to what, from where, when."),
    ("certificate", "list", "ca.certificate:list_", "List certificates by when they end."),
    ("ca", "show", "ca.manage:show", "Show the authority, the signing keys and who holds them up."),
    ("ca", "rotate", "ca.manage:rotate", "Replace the authority or a signing key, step by step."),
    ("client", "create", "client.manage:create", "Make keys and credentials for a new client."),
    ("client", "list", "client.manage:list_", "List clients."),
    ("client", "renew", "client.manage:renew", "Renew the credentials of the context in use."),
    ("context", "ls", "client.contexts:ls", "List the contexts of this account."),
    ("context", "use", "client.contexts:use_", "Mean a context where none is named."),
    ("client", "revoke", "client.manage:revoke", "Refuse a client's credentials from now on."),
)


# Missing commands that people look for, with the reason and the alternative.
_WHY_NOT: Final[dict[tuple[str, ...], tuple[str, str]]] = {
    ("agent", "rename"): (
        "an agent keeps its name for life: certificate, rights, audit trail and history have it",
        "`mesh agent create NEW`, set it up there, then `mesh agent delete OLD`; see docs/cli.md",
    ),
}


def build(tokens: Sequence[str] = ("--help",)) -> "App":
    """Return the part of the tree that `tokens` can reach; functions are imported on first use.

    The formatter of the help is loaded for a request of it only: it takes 50 ms.
    """
    from cyclopts import App

    formatter: Literal["plain"] | None = "plain" if HELP_FLAGS.intersection(tokens) else None
    wanted = [tokens[0]] if tokens[:1] and tokens[0] in NOUNS else [*NOUNS]
    app = App(name="mesh", help=_HELP, version_flags=[], help_formatter=formatter)
    nouns = {
        name: App(name=name, help=NOUNS[name], version_flags=[], help_formatter=formatter)
        for name in wanted
    }
    for noun, verb, target, text in COMMANDS:
        path = f"{_PACKAGE}.{target}"
        if noun in NOUNS and noun not in nouns:
            continue
        if verb:
            nouns[noun].command(path, name=verb, help=text)
        else:
            app.command(path, name=noun, help=text)
    for noun_app in nouns.values():
        app.command(noun_app)
    return app


def run(tokens: Sequence[str]) -> int:
    """Run a command line; returns the exit code and never raises a fault."""
    code = _run(tokens)
    try:
        settle_output()
    except (OutputFailed, BrokenPipeError):
        give_up_output()  # the exit code is already of a worse failure
    return code


def _run(tokens: Sequence[str]) -> int:
    ordered = hoist(_spelled(tokens))
    output = asked_output(ordered)
    try:
        result = _overview(ordered) or _command(ordered, output)
        _show_examples(ordered)
        settle_output()
    except BrokenPipeError:
        return _broken_pipe()
    except OutputFailed as error:
        return _unwritable(error)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:  # noqa: BLE001  (faults are said, all else is raised again)
        return _fault(error, output)
    return result if isinstance(result, int) else 0


def _spelled(tokens: Sequence[str]) -> list[str]:
    """Replace `help [COMMAND]` and `version` by the equal options."""
    if tokens[:1] == ["version"]:
        return ["--version", *tokens[1:]]
    return [*tokens[1:], "--help"] if tokens[:1] == ["help"] else [*tokens]


def _show_examples(tokens: Sequence[str]) -> None:
    """Print the examples below the help of a command."""
    before = [*tokens][: tokens.index("--")] if "--" in tokens else tokens
    path = _path(tokens)
    is_command = len(path) == 2 or (path and path[0] not in NOUNS)
    if is_command and HELP_FLAGS.intersection(before):
        from broker_client.cli import examples

        print(f"\n{examples.shown(path[0], path[1] if path[1:] else '')}")


def _overview(tokens: Sequence[str]) -> str:
    """Print the answer without a command: the version, or the list of commands."""
    first, second = [*tokens[:2], "", ""][:2]
    text = ""
    if first == "--version":
        text = _version()
    elif not first or first in HELP_FLAGS:
        rows = [*((noun, line) for noun, verb, _, line in COMMANDS if not verb), *NOUNS.items()]
        text = _listed("mesh COMMAND", _HELP, rows)
    elif first in NOUNS and (not second or second in HELP_FLAGS):
        rows = [(verb, line) for noun, verb, _, line in COMMANDS if noun == first]
        text = _listed(f"mesh {first} COMMAND", NOUNS[first], rows)
    if text:
        print(text)
    return text


def _listed(usage: str, about: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {text}" for name, text in rows]
    name = usage.rpartition(" ")[0]
    hint = f"`{name} NAME --help` shows the options of each."
    return "\n".join([f"Usage: {usage}", "", about.strip(), "", *lines, "", hint])


def _command(tokens: Sequence[str], output: "Output") -> object:
    from cyclopts import CycloptsError

    try:
        return build(tokens)(
            with_mark(tokens), exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _usage(error, tokens, output)


def _usage(error: "CycloptsError", tokens: Sequence[str], output: "Output") -> int:
    from broker_client.cli.mistakes import in_words
    from broker_client.cli.screen.report import print_usage

    why_not = _WHY_NOT.get((*tokens[:2],))
    if why_not:
        return print_usage(*why_not, output)
    words = " ".join(["mesh", *_path(tokens)])
    return print_usage(in_words(error), f"see `{words} --help`", output)


def _path(tokens: Sequence[str]) -> list[str]:
    """Return the words of `tokens` that name a command."""
    words = [*tokens[:2], "", ""]
    known = {(noun, verb) for noun, verb, _, _ in COMMANDS}
    if (words[0], words[1]) in known:
        return words[:2]
    return words[:1] if words[0] in NOUNS or (words[0], "") in known else []


def _fault(error: Exception, output: "Output") -> int:
    """Print a fault of the mesh; any other error is a defect, and is shown with its traceback."""
    from broker_client.cli.screen.report import print_fault
    from broker_client.runtime.extras import fault_of_import
    from schemas.faults import MeshError

    fault = fault_of_import(error) if isinstance(error, ImportError) else error
    if not isinstance(fault, MeshError):
        raise error
    return print_fault(fault, output)


def _broken_pipe() -> int:
    """End silently after the reader of stdout has closed it, without a second error at exit."""
    from broker_client.cli.outcomes import BROKEN_PIPE

    give_up_output()
    return BROKEN_PIPE


def _unwritable(error: OutputFailed) -> int:
    from broker_client.cli.outcomes import UNWRITABLE
    from broker_client.cli.screen.report import say

    give_up_output()
    said = getattr(error, "__notes__", [])
    say("; ".join([f"the output cannot be written: {error.strerror}", *said]))
    return UNWRITABLE


def _interrupted() -> int:
    from broker_client.cli.outcomes import INTERRUPTED
    from broker_client.cli.screen.report import say

    say("interrupted")
    return INTERRUPTED


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("agent-mesh")
    except PackageNotFoundError:
        return "unknown"
