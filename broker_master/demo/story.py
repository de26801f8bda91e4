"""What the demonstration does, told in the very commands that a person would type."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker_master.demo.crew import Crew

AGENTS: Final = (("web-1", "web"), ("web-2", "web"), ("db-1", "db"))
LOOP: Final = "for n in 1 2 3 4 5; do echo line $n; sleep 0.3; done"
FAILURE: Final = "echo disk is full >&2; exit 3"
WIDTH: Final = 80


def tell(crew: Crew) -> None:
    """Make a mesh, enrol three agents, run commands on them. Raises DemoFailed."""
    _say("A broker, a master and three agents, each a process of its own.")
    _say("Every line with a $ is what you would type.")
    _say(f"Files: {crew.folder}")
    http = _begin(crew)
    _enrol(crew)
    _work(crew)
    _look(crew, http)


def hand_over(crew: Crew, *, is_kept: bool) -> None:
    """How to go on by oneself while all of it runs."""
    _heading("It is yours. In another terminal:")
    _typed(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    _typed(f"export MESH_CONTEXT={shlex.quote(str(crew.context))}")
    _typed("mesh run --group web -- uname -a")
    _say("Ctrl-C ends all of it" + (f"; its files stay in {crew.folder}" if is_kept else "."))


def _begin(crew: Crew) -> str:
    """Returns the address of the master's HTTP server."""
    _heading("Make a mesh; start its master, which starts a broker")
    _typed("broker-master init --state-dir mesh")
    crew.take(["broker-master", "init", "--state-dir", "mesh"])
    serve = ["broker-master", "serve", "--state-dir", "mesh"]
    serve += ["--nats-port", "0", "--http", "127.0.0.1:0"]
    crew.start("master", serve)
    _typed(" \\\n    ".join((shlex.join(serve[:4]), shlex.join(serve[4:]))) + " &")
    ready = crew.wait_ready("master")
    print(ready)
    _typed("export MESH_CONTEXT=mesh/contexts/admin.toml")
    return ready.rpartition("http=")[2]


def _enrol(crew: Crew) -> None:
    _heading("Enrol three agents in two groups, each with its own one-time token")
    for group in dict.fromkeys(group for _, group in AGENTS):
        create = ["mesh", "group", "create", group]
        _typed(shlex.join(create))
        crew.take(create)
    for agent, group in AGENTS:
        create = ["mesh", "agent", "create", agent, "--group", group]
        setup = ["broker-agent", "setup", "--state-dir", agent, "--token", "-"]
        _typed(f"{shlex.join(create)} |\n    {shlex.join(setup)}")
        crew.take(setup, crew.take(create))
        run = ["broker-agent", "run", "--state-dir", agent]
        _typed(f"{shlex.join(run)} &")
        crew.start(agent, run)
    for agent, _ in AGENTS:
        print(crew.wait_ready(agent))


def _work(crew: Crew) -> None:
    _heading("Run a program on one agent of a group; its output comes as it is printed")
    _run(crew, "--group", "web", ["sh", "-c", LOOP])
    _heading("Run one on a certain agent")
    _run(crew, "--agent", "db-1", ["uname", "-a"])
    _heading("A program that fails: its stderr and its exit code come back")
    _run(crew, "--group", "db", ["sh", "-c", FAILURE], expect=3)
    _typed("echo $?")
    print(3)


def _run(crew: Crew, how: str, target: str, program: Sequence[str], *, expect: int = 0) -> None:
    run = ["mesh", "run", how, target, "--"]
    line = shlex.join([*run, *program])
    if len(line) + 2 > WIDTH:
        line = f"{shlex.join(run)} \\\n    {shlex.join(program)}"
    _typed(line)
    crew.show([*run, *program], expect=expect)


def _look(crew: Crew, http: str) -> None:
    _heading("What the mesh knows")
    for noun in ("agent", "command"):
        _typed(f"mesh {noun} list")
        crew.show(["mesh", noun, "list"])
    _say(f"Console: {http} (so far /healthz, /readyz and /metrics)")


def _heading(text: str) -> None:
    print(f"\n{_styled(text, '1')}")


def _typed(line: str) -> None:
    print(_styled(f"$ {line}", "36"), flush=True)


def _say(text: str) -> None:
    print(text, flush=True)


def _styled(text: str, style: str) -> str:
    is_plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if is_plain else f"\x1b[{style}m{text}\x1b[0m"
