"""The demonstration of a connection loss: both sides count down, it heals, and nothing was lost."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

from broker_master.demo.crew import Crew, DemoFailed
from broker_master.demo.relay import Relay
from broker_master.demo.telling import heading, say, typed, typed_program

AGENT: Final = "web-1"
COMMAND: Final = "counter"
LINES: Final = 60
PROGRAM: Final = ("sh", "-c", f"for n in $(seq {LINES}); do echo line $n; sleep 0.3; done")
# A third of the defaults, for a short demonstration: silence is detected after 3 s, tasks are ended
# after 3 + 7 x 2 = 17 s, and given up after 21 s.
TIMERS: Final[Mapping[str, str]] = {
    "MESH_TIMERS__BEAT_S": "1",
    "MESH_TIMERS__SUSPECT_S": "3",
    "MESH_TIMERS__ACK_S": "2",
    "MESH_TIMERS__RESENDS": "7",
    "MESH_TIMERS__GRACE_S": "2",
    "MESH_TIMERS__LOST_S": "21",
    "MESH_TIMERS__ADOPT_S": "1",
    "MESH_TIMERS__HANDSHAKE_S": "2",
}
# Long enough to be detected by both, with room for a slow machine before tasks are ended.
OUTAGE_S: Final = 8.0
# Where a request takes seconds, the agent gets a second one up to here.
OUTAGE_MAX_S: Final = 11.0
LINES_BEFORE: Final = 5
FIRST_LINES_S: Final = 20.0
RETURN_S: Final = 10.0
END_S: Final = 40.0
LOOK_S: Final = 0.1
# Columns of the agent's output.
_LEFT: Final = 43


class Arrivals:
    """The lines of a running `mesh run`, as they come; the first `told` of them were printed."""

    def __init__(self, crew: Crew, name: str) -> None:
        self.lines: list[str] = []
        self._told = 0
        self._reader = threading.Thread(target=self._read, args=(crew, name), daemon=True)
        self._reader.start()

    def _read(self, crew: Crew, name: str) -> None:
        # Its end is closed by the demo where that fails.
        with contextlib.suppress(ValueError, OSError):
            for line in crew.lines_of(name):
                self.lines.append(line)

    @property
    def is_over(self) -> bool:
        return not self._reader.is_alive()

    def tell(self) -> None:
        """Print the lines since the last call; of many lines the first and the last."""
        fresh = self.lines[self._told :]
        self._told += len(fresh)
        if len(fresh) > LINES_BEFORE:
            fresh = [f"{fresh[0]} … {fresh[-1]} ({len(fresh)} lines at once)"]
        for line in fresh:
            say(line)


class Sights:
    """Output of both sides while the link was cut.

    fences: seconds that the agent gave its tasks. given_up: when the master would give up.
    """

    def __init__(self) -> None:
        self.fences: list[float] = []
        self.given_up: list[str] = []


def tell(crew: Crew) -> None:
    """Raise DemoFailed unless every promise was kept."""
    say("A broker, a master and one agent, whose link to the broker we can cut.")
    say("Every line with a $ is what you would type; timers are a third of the usual.")
    broker_port = _begin(crew)
    with Relay(broker_port) as relay:
        try:
            _enrol(crew, relay.port)
            arrivals = _run(crew)
            sights = _cut(crew, relay, arrivals)
            returned = _heal(crew, relay, arrivals)
            _judge(crew, arrivals, sights, returned)
        finally:
            # Before the relay ends: an agent that cannot say goodbye takes longer to leave.
            relay.heal()
            crew.stop()


def _begin(crew: Crew) -> int:
    """Set the mesh up; returns the broker's port."""
    heading("Make a mesh; start its master, which starts a broker")
    crew.take(["broker-master", "init", "--state-dir", "mesh"])
    serve = ["broker-master", "serve", "--state-dir", "mesh"]
    crew.start("master", [*serve, "--nats-port", "0", "--http", "127.0.0.1:0"])
    typed("broker-master init --state-dir mesh && broker-master serve --state-dir mesh &")
    ready = crew.wait_ready("master")
    say(ready)
    port = urlsplit(ready.split()[1].removeprefix("nats=")).port
    if port is None:
        raise DemoFailed(f"no port of the broker in: {ready}")
    return port


def _enrol(crew: Crew, port: int) -> None:
    heading("Enrol an agent; it reaches the broker through a port of ours")
    crew.take(["mesh", "group", "create", "web"])
    token = crew.take(["mesh", "agent", "create", AGENT, "--group", "web"])
    crew.take(["broker-agent", "setup", "--state-dir", AGENT, "--token", "-"], token)
    run = ["broker-agent", "run", "--state-dir", AGENT, "--urls", f"tls://127.0.0.1:{port}"]
    typed_program(run, [], " &")
    crew.start(AGENT, run)
    say(crew.wait_ready(AGENT))


def _run(crew: Crew) -> Arrivals:
    heading("A task prints a line every 0.3 s")
    run = ["mesh", "run", "--agent", AGENT, "--id", COMMAND, "--"]
    typed_program(run, PROGRAM, " &")
    crew.start(COMMAND, [*run, *PROGRAM])
    arrivals = Arrivals(crew, COMMAND)

    def has_begun() -> bool:
        arrivals.tell()
        return len(arrivals.lines) >= LINES_BEFORE

    _wait(has_begun, FIRST_LINES_S, f"the first {LINES_BEFORE} lines")
    return arrivals


def _cut(crew: Crew, relay: Relay, arrivals: Arrivals) -> Sights:
    """Cut the link and look at both sides until it is time to heal it."""
    heading("The link is cut: nothing passes any more, and no side is notified")
    relay.cut()
    began = time.monotonic()
    say("What both sides say, over and over again:")
    typed(f"broker-agent status --state-dir {AGENT} --output json")
    typed(f"mesh command show {COMMAND} --output json")
    say(f"{'after':>7}   {AGENT:<{_LEFT}}master")
    sights = Sights()
    is_shown = False
    while time.monotonic() - began < (OUTAGE_S if len(sights.fences) > 1 else OUTAGE_MAX_S):
        agent, master = _agent_says(crew, sights), _master_says(crew, sights)
        say(f"{time.monotonic() - began:5.1f} s   {agent:<{_LEFT}}{master}")
        if sights.given_up and sights.fences and not is_shown:
            typed(f"mesh command show {COMMAND}")
            crew.show(["mesh", "command", "show", COMMAND])
            is_shown = True
    arrivals.tell()
    return sights


def _agent_says(crew: Crew, sights: Sights) -> str:
    status = _json(crew, ["broker-agent", "status", "--state-dir", AGENT])
    if status["fence_in_s"] is None:
        return str(status["link"])
    sights.fences.append(status["fence_in_s"])
    age_s, left_s = status["lease_age_s"], status["fence_in_s"]
    return f"{status['link']}, lease {age_s:.1f} s old, fence in {left_s:.1f} s"


def _master_says(crew: Crew, sights: Sights) -> str:
    record = _json(crew, ["mesh", "command", "show", COMMAND])
    state, following = str(record["state"]), str(record["next"])
    if state != "unknown" or not following.startswith("given up at "):
        return state
    moment = following.removeprefix("given up at ").split()[0]
    sights.given_up.append(moment)
    left_s = datetime.fromisoformat(moment).timestamp() - time.time()
    return f"unknown, given up in {left_s:.1f} s"


def _heal(crew: Crew, relay: Relay, arrivals: Arrivals) -> str:
    """Heal the link; returns the line about the agent's return."""
    before = len(arrivals.lines)
    relay.heal()
    healed = time.monotonic()
    heading("The link is healed in time: what was printed meanwhile comes, then the rest")

    def is_back() -> bool:
        arrivals.tell()
        return len(arrivals.lines) > before

    _wait(is_back, RETURN_S, "output after the link was healed")
    say(f"  ({time.monotonic() - healed:.1f} s after the link was healed)")
    returned = ""

    def has_returned() -> bool:
        nonlocal returned
        arrivals.tell()
        agent = _json(crew, ["mesh", "agent", "show", AGENT])
        returned = str(agent["returned"]) if agent["status"] == "active" else ""
        return bool(returned)

    _wait(has_returned, RETURN_S, f"the return of {AGENT}")
    return returned


def _judge(crew: Crew, arrivals: Arrivals, sights: Sights, returned: str) -> None:
    def is_over() -> bool:
        arrivals.tell()
        return arrivals.is_over

    _wait(is_over, END_S, "the end of the task")
    code = crew.wait_ended(COMMAND, RETURN_S)
    record = _json(crew, ["mesh", "command", "show", COMMAND])
    attempts = record["attempts"]
    wanted = [f"line {number}" for number in range(1, LINES + 1)]
    left = ", ".join(f"{fence:.0f}" for fence in sights.fences)
    heading("What came of it")
    typed(f"mesh agent show {AGENT} | grep returned")
    say(f"returned     {returned.removeprefix('returned ')}")
    claims = (
        (f"{AGENT} counted down: {left} s", _counts_down(sights.fences)),
        ("the master said unknown, and when it would give up", bool(sights.given_up)),
        (f"{AGENT} said that its task went on", "1 task went on, 0 ended" in returned),
        (
            f"one attempt, {record['state']}, exit code {code}",
            (len(attempts), record["state"], code) == (1, "succeeded", 0),
        ),
        (
            f"{len(arrivals.lines)} of {LINES} lines arrived, once and in order",
            arrivals.lines == wanted,
        ),
    )
    for claim, is_true in claims:
        say(f"  {'yes' if is_true else 'NO '}  {claim}")
    untrue = [claim for claim, is_true in claims if not is_true]
    if untrue:
        raise DemoFailed(f"not true: {untrue[0]}\n  logs: {crew.logs}")


def _counts_down(seconds: Sequence[float]) -> bool:
    return len(seconds) > 1 and all(before > after > 0 for before, after in pairwise(seconds))


def _json(crew: Crew, command: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(crew.take([*command, "--output", "json"]))
    return found


def _wait(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > give_up_at:
            raise DemoFailed(f"{what} did not come in {timeout_s:g} s")
        time.sleep(LOOK_S)
