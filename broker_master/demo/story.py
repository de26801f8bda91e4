"""The story of the demonstration, with the very commands that a person would type."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker_master.demo.crew import Crew, DemoFailed
from broker_master.demo.telling import heading, say, typed, typed_program

AGENTS: Final = (("web-1", "web"), ("web-2", "web"), ("db-1", "db"))
LOOP: Final = "for n in 1 2 3 4 5; do echo line $n; sleep 0.3; done"
# Files of the hosts, by their paths below the folder of the demo.
PROFILES: Final = {
    "db-1/profiles.d/shop.toml": 'kind = "sqlite"\nfile = "{folder}/shop.db"\naccess = "write"\n',
    "web-1/profiles.d/status.toml": 'kind = "http"\nbase_url = "{http}"\nallow = ["GET /healthz"]\n'
    'networks = ["127.0.0.0/8"]\n',
}
CONNECTIONS: Final = (("shop", "db", "sqlite"), ("status", "web", "http"))
ACTIONS: Final = (
    (("shop", "sql.execute"), "sql=create table sale (day text, total int)", ()),
    (
        ("shop", "sql.execute"),
        "sql=insert into sale values (:day, :total)",
        ("params.day=monday", "params.total=12"),
    ),
    (("shop", "sql.query"), "sql=select * from sale where day = :day", ("params.day=monday",)),
    (("status", "http.request"), "path=/healthz", ()),
)
ACTIVE_S: Final = 30.0
LOOK_S: Final = 0.2
FAILURE: Final = "echo disk is full >&2; exit 3"


def tell(crew: Crew) -> None:
    """Make a mesh, enrol three agents, run commands on them. Raises DemoFailed."""
    say("A broker, a master and three agents, each a process of its own.")
    say("Every line with a $ is what you would type.")
    say(f"Files: {crew.folder}")
    http = _begin(crew)
    _enrol(crew, http)
    _work(crew)
    _connect(crew)
    _look(crew, http)


def hand_over(crew: Crew, *, is_kept: bool) -> None:
    """Print how to go on while all of it runs."""
    heading("It is yours. In another terminal:")
    typed(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    typed(f"export MESH_CONTEXT={shlex.quote(str(crew.context))}")
    typed("mesh run --group web -- uname -a")
    say("Ctrl-C ends all of it" + (f"; its files stay in {crew.folder}" if is_kept else "."))


def _begin(crew: Crew) -> str:
    """Set the mesh up; returns the address of the master's HTTP server."""
    heading("Make a mesh; start its master, which starts a broker")
    typed("broker-master init --state-dir mesh")
    crew.take(["broker-master", "init", "--state-dir", "mesh"])
    serve = ["broker-master", "serve", "--state-dir", "mesh"]
    serve += ["--nats-port", "0", "--http", "127.0.0.1:0"]
    crew.start("master", serve)
    typed(" \\\n    ".join((shlex.join(serve[:4]), shlex.join(serve[4:]))) + " &")
    ready = crew.wait_ready("master")
    print(ready)
    typed("export MESH_CONTEXT=mesh/contexts/admin.toml")
    return ready.rpartition("http=")[2]


def _enrol(crew: Crew, http: str) -> None:
    heading("Enrol three agents in two groups, each with its own one-time token")
    for group in dict.fromkeys(group for _, group in AGENTS):
        create = ["mesh", "group", "create", group]
        typed(shlex.join(create))
        crew.take(create)
    for agent, group in AGENTS:
        create = ["mesh", "agent", "create", agent, "--group", group]
        setup = ["broker-agent", "setup", "--state-dir", agent, "--token", "-"]
        typed(f"{shlex.join(create)} |\n    {shlex.join(setup)}")
        crew.take(setup, crew.take(create))
        _place_profiles(crew.folder, agent, http)
        run = ["broker-agent", "run", "--state-dir", agent]
        typed(f"{shlex.join(run)} &")
        crew.start(agent, run)
    for agent, _ in AGENTS:
        print(crew.wait_ready(agent))


def _work(crew: Crew) -> None:
    heading("Run a program on one agent of a group; its output comes as it is printed")
    _run(crew, "--group", "web", ["sh", "-c", LOOP])
    heading("Run one on a certain agent")
    _run(crew, "--agent", "db-1", ["uname", "-a"])
    heading("A program that fails: its stderr and its exit code come back")
    _run(crew, "--group", "db", ["sh", "-c", FAILURE], expect=3)
    typed("echo $?")
    print(3)


def _place_profiles(folder: Path, agent: str, http: str) -> None:
    """Write the profiles of an agent before it starts, so that it has them from its first beat."""
    for path, text in PROFILES.items():
        if path.startswith(f"{agent}/"):
            (folder / path).parent.mkdir()
            (folder / path).write_text(text.format(folder=folder, http=http))
    # An empty file is a database without tables.
    (folder / "shop.db").touch()


def _connect(crew: Crew) -> None:
    heading("Reach a database and a service behind the agents; their settings stay there")
    for path in PROFILES:
        typed(f"cat {path}")
        say((crew.folder / path).read_text().rstrip())
    for name, group, kind in CONNECTIONS:
        create = ["mesh", "connection", "create", name, "--group", group, "--kind", kind]
        typed(shlex.join(create))
        crew.take(create)
    for name, *_ in CONNECTIONS:
        _await_active(crew, name)
    typed("mesh connection test shop")
    crew.show(["mesh", "connection", "test", "shop"])
    for words, first, rest in ACTIONS:
        do = ["mesh", "do", *words, "--arg", first]
        more = [word for each in rest for word in ("--arg", each)]
        typed(" \\\n    ".join(shlex.join(part) for part in (do, more) if part))
        crew.show([*do, *more])


def _await_active(crew: Crew, connection: str) -> None:
    """Wait until an agent has told the master of its profile, which takes a heartbeat."""
    give_up_at = time.monotonic() + ACTIVE_S
    show = ["mesh", "connection", "show", connection, "--output", "json"]
    while json.loads(crew.take(show))["status"] != "active":
        if time.monotonic() > give_up_at:
            raise DemoFailed(f"connection {connection} is not active\n  logs: {crew.logs}")
        time.sleep(LOOK_S)


def _run(crew: Crew, how: str, target: str, program: Sequence[str], *, expect: int = 0) -> None:
    run = ["mesh", "run", how, target, "--"]
    typed_program(run, program)
    crew.show([*run, *program], expect=expect)


def _look(crew: Crew, http: str) -> None:
    heading("What the mesh knows")
    for noun in ("agent", "command"):
        typed(f"mesh {noun} list")
        crew.show(["mesh", noun, "list"])
    say(f"Console: {http}")
