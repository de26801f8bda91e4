"""An operator's week, played with the real programs on a terminal of 80 and of 120 columns.

    python -m tests.week                # prints the transcript

Hosts are those of `tests.hosts`: `old` and `new` for the master, `ops` for the operator, and one
per agent. Each step asserts its exit code and the words that matter; what is only looked at is
looked at on both widths. Whatever `mesh` says, no line is wider than the terminal, and nothing ever
is a traceback.
"""

import asyncio
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ
from typing import Final

from tests.harness import FAST_TIMERS
from tests.hosts import Host, Hosts
from tests.old_release import OldRelease, unpacked

WIDTHS: Final = (80, 120)
STEP_S: Final = 60.0
LOOK_S: Final = 60.0
# Sequences that colour, move the cursor or clear; what a live line has left at its end is kept.
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")
_STATE: Final = "--state-dir /var/lib/mesh-agent"
_SHORT_DAYS: Final = "0.00025"


class Week:
    """The hosts and what was typed on them. tell: gets each line of the transcript."""

    def __init__(self, hosts: Hosts, tell: Callable[[str], None]) -> None:
        self.hosts = hosts
        self._tell = tell
        self.steps = 0

    def day(self, title: str) -> None:
        self._tell(f"\n=== {title}\n")

    async def do(
        self, host: str, command: str, *words: str, code: int = 0, columns: int = 80
    ) -> str:
        """Type `command`, which ends with `code`, and return what it said: all of `words` too."""
        said = await self._typed(host, command, code, columns)
        for word in words:
            assert word in said, f"{host}$ {command}\nlacks {word!r}:\n{said}"
        self._show(host, command, said, columns)
        return said

    async def see(self, command: str, *words: str, host: str = "ops") -> None:
        """Look at `command` on both widths, each until it has all of `words`, as a person does."""
        for columns in WIDTHS:
            give_up_at = time.monotonic() + LOOK_S
            while True:
                try:
                    await self.do(host, command, *words, columns=columns)
                except AssertionError:
                    if time.monotonic() > give_up_at:
                        raise
                    await asyncio.sleep(0.2)
                else:
                    break

    async def unit(self, host: str, verb: str, name: str = "mesh-agent") -> None:
        code, said = await self.hosts.do(host, f"systemctl {verb} {name}")
        assert code == 0, said
        self._tell(f"{host}$ systemctl {verb} {name}")

    async def send(self, host: str, path: str, target: str) -> None:
        """Copy a file to the same path on another host."""
        command = f"scp {path} {target}.example.net:{path}"
        assert await self.hosts.do(host, command) == (0, "")
        self._tell(f"{host}$ {command}")

    async def _typed(self, host: str, command: str, code: int, columns: int) -> str:
        place = self.hosts[host]
        got, said = await asyncio.to_thread(_on_terminal, place, place.placed(command), columns)
        self.steps += 1
        assert got == code, f"{host}$ {command}\nexit code {got}, not {code}:\n{said}"
        assert "Traceback" not in said, said
        # Lines that are to be copied, such as the next command, are not broken; nor is csv.
        is_wrapped = command.startswith("mesh") and "--output" not in command
        wide = [line for line in said.splitlines() if is_wrapped and len(line) > columns]
        assert not wide, f"{host}$ {command}\nwider than {columns}: {wide[0]}"
        return said

    def _show(self, host: str, command: str, said: str, columns: int) -> None:
        command = command.replace(str(self.hosts[host].folder), "/var/lib")
        mark = "" if columns == WIDTHS[0] else f"   # {columns} columns"
        self._tell(f"{host}$ {command}{mark}")
        for line in said.replace(str(self.hosts[host].folder), "/var/lib").splitlines():
            self._tell(line)


def _on_terminal(host: Host, command: str, columns: int) -> tuple[int, str]:
    """Exit code, and what is left to be read on a terminal of so many columns."""
    screen, terminal = pty.openpty()
    try:
        ioctl(terminal, TIOCSWINSZ, pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=host.folder,
            env={**host.env, "TERM": "xterm"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
    finally:
        os.close(terminal)
    said, give_up_at = bytearray(), time.monotonic() + STEP_S
    try:
        # The screen reports an error once the last process that has the terminal is gone.
        with suppress(OSError):
            while (left_s := give_up_at - time.monotonic()) > 0:
                if select.select([screen], [], [], left_s)[0]:
                    said += os.read(screen, 65_536)
        return process.wait(max(0.1, give_up_at - time.monotonic())), _read_off(bytes(said))
    finally:
        process.kill()
        os.close(screen)


def _read_off(said: bytes) -> str:
    text = said.decode(errors="replace").replace("\r\n", "\n")
    lines = [_CONTROL.sub("", line).rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


async def play(folder: Path, tell: Callable[[str], None]) -> int:
    """Play the week below `folder`; returns the number of commands. Raises AssertionError."""
    hosts = Hosts(folder, {**FAST_TIMERS, "MESH_CERTIFICATES__LOOK_S": "1"})
    week = Week(hosts, tell)
    try:
        with unpacked() as old:
            await monday(week, old)
            await tuesday(week)
            await wednesday(week)
            await thursday(week)
            await friday(week)
            await saturday(week)
            await sunday(week)
    finally:
        await hosts.aclose()
    return week.steps


async def monday(week: Week, old: OldRelease) -> None:
    week.day("Monday: install the master, set up the first agents")
    hosts, ops = week.hosts, week.hosts["ops"]
    where = "--state-dir /var/lib/mesh-master"
    await week.do("old", f"broker-master init {where} --host old.example.net", "is ready in")
    await week.unit("old", "start", "mesh-master")
    ops.env["MESH_CONTEXT"] = hosts["old"].placed("/var/lib/mesh-master/contexts/admin.toml")
    await week.do("ops", "mesh client create ann --role admin --out ann", "ann")
    ops.env.pop("MESH_CONTEXT")
    await week.do("ops", "mesh context use ./ann")
    await week.see("mesh context ls", "ann")
    await week.see("mesh status", "mesh")
    await week.do("ops", "mesh group create web")
    await week.do("ops", "mesh group create db")
    await week.see("mesh group list", "inactive")
    # One host still has the release before.
    hosts["dbone"].env.update(old.env)
    hosts["dbone"].units["mesh-agent"].env.update(old.env)
    for host, name, group in (
        ("web", "web-1", "web"),
        ("webb", "web-2", "web"),
        ("dbone", "db-1", "db"),
    ):
        await set_up(week, host, name, group)
    await week.see("mesh agent list", "web-1", "web-2", "db-1")
    await week.see("mesh agent list '!status:active'", "no agent passes the filter")
    await week.do("ops", "mesh run --group web -- echo hello", "hello")
    await week.do("ops", "mesh doctor", "ann")
    await week.see("mesh ping", "3 of 3 agents answered")


async def set_up(week: Week, host: str, name: str, group: str, *, verb: str = "create") -> None:
    told = f"--group {group} " if verb == "create" else ""
    await week.do("ops", f"mesh agent {verb} {name} {told}> /var/tmp/token")
    await week.send("ops", "/var/tmp/token", host)
    await week.do(host, f"broker-agent setup {_STATE} --token=- < /var/tmp/token")
    await week.unit(host, "start")


async def tuesday(week: Week) -> None:
    week.day("Tuesday: what failed is found, understood and repeated")
    ready = week.hosts["ops"].folder / "ready"
    body = f"test -e {ready} || {{ echo no space left on device >&2; exit 3; }}"
    for number in (1, 2):
        run = f"mesh run --group web --id deploy-{number} --label deploy=42 -- sh -c '{body}'"
        await week.do("ops", run, "no space left on device", code=3)
    await week.do("ops", "mesh run --group web --id fine --label deploy=42 -- true")
    await week.see("mesh command list 'state:failed label:deploy=42'", "deploy-1", "deploy-2")
    await week.see("mesh command list 'exit:3 since:1h' --output csv", "deploy-1")
    await week.see("mesh command show deploy-1", "sh -c", "no space left on device", "exit code 3")
    await week.do("ops", "mesh command retry 'state:failed label:deploy=42' --dry-run", "deploy-1")
    ready.touch()
    await week.do("ops", "mesh command retry 'state:failed label:deploy=42' --yes", "2 commands")
    await week.see("mesh command list 'label:deploy=42 state:succeeded'", "fine")
    await week.do(
        "ops", "mesh run --agent web-1 --id slow --detach -- sh -c 'seq 5; sleep 300'", "slow"
    )
    await week.see("mesh command list state:running", "slow", "web-1")
    await week.see("mesh command logs slow --tail 2", "4\n5")
    await week.see("mesh top --once", "slow")
    await week.do("ops", "mesh command cancel 'state:running' --dry-run", "slow")
    await week.do("ops", "mesh command cancel slow")
    await week.see("mesh command list state:cancelled", "slow")
    await week.do("ops", "mesh command show slwo", "no command slwo", code=3)


async def wednesday(week: Week) -> None:
    week.day("Wednesday: one program on many hosts")
    flag = week.hosts["ops"].folder / "web-2-is-mended"
    body = f'echo on $MESH_AGENT; test "$MESH_AGENT" != web-2 -o -e {flag}'
    await week.do("ops", "mesh run --all 'web-*' --dry-run -- uptime", "web-1", "web-2")
    many = "mesh run --all 'web-*' --batch 1 --display failed --id roll-out"
    await week.do("ops", f"{many} -- sh -c '{body}'", "web-2", code=5)
    await week.see("mesh fanout list", "roll-out")
    await week.see("mesh fanout show roll-out", "web-1", "web-2", "failed")
    flag.touch()
    await week.do(
        "ops", "mesh fanout retry roll-out --failed --id roll-out-again", "roll-out-again"
    )
    await week.do("ops", "mesh fanout wait roll-out-again")
    await week.see("mesh fanout show roll-out-again", "web-2", "succeeded")
    await week.do("ops", "mesh run --all 'web-*' --batch 50% --out results -- hostname")
    await week.do("ops", "ls results", "web-1", "web-2")


async def thursday(week: Week) -> None:
    week.day("Thursday: hosts are taken out, paused and moved")
    flag = week.hosts["ops"].folder / "drained"
    task = f"while [ ! -e {flag} ]; do sleep 0.1; done; echo finished"
    await week.do("ops", f"mesh run --agent web-1 --id long --detach -- sh -c '{task}'", "long")
    await week.see("mesh command list state:running", "long")
    await week.do("ops", "mesh agent disable web-1 --note 'new disk'", "web-1")
    await week.see("mesh agent list web-1", "disabled by ann", "1 task left")
    await week.do("ops", "mesh run --agent web-1 --on-inactive refuse -- true", code=6)
    await week.do("ops", "mesh run --group web -- sh -c 'echo $MESH_AGENT'", "web-2")
    flag.touch()
    await week.do("ops", "mesh agent disable web-1 --wait --note 'new disk'")
    await week.see("mesh command logs long", "finished")
    await week.do("ops", "mesh agent enable web-1")
    await week.do("ops", "mesh agent pause web-2 --for 2s --note reboot", "web-2")
    await week.see("mesh agent list 'web-* status:active'", "web-1", "web-2")
    await week.do("ops", "mesh agent move web-2 --group db --wait --within 60s")
    await week.see("mesh agent list group:db", "web-2", "db-1")
    await week.do("ops", "mesh run --agent web-2 -- true")
    await week.do("ops", "mesh agent move web-2 --group web --wait --within 60s")
    await week.see("mesh agent list '!status:active'", "no agent passes the filter")
    await week.see("mesh events kind:agent --since 1h", "web-2", "disabled -> active")
    await week.see("mesh audit list --target web-2 --since 1h", "agent.pause", "agent.move")


async def friday(week: Week) -> None:
    week.day("Friday: a certificate ends, keys are replaced")
    await week.see("mesh certificate list --expiring 91d", "web-1", "db-1")
    await week.do("ops", "mesh agent rotate web-1 --wait")
    # A host is switched off until its certificate has ended: of a minute, not of 90 days.
    days, master = "MESH_CERTIFICATES__AGENT_DAYS", week.hosts["old"].units["mesh-master"]
    master.env[days] = _SHORT_DAYS
    await week.unit("old", "restart", "mesh-master")
    await week.see("mesh agent list '!status:active'", "no agent passes the filter")
    await week.do("ops", "mesh agent rotate db-1 --wait")
    await week.unit("dbone", "stop")
    del master.env[days]
    await week.unit("old", "restart", "mesh-master")
    await week.see("mesh certificate list --expiring 1d", "db-1", "expired")
    await week.see("mesh audit list --action certificate.warning", "db-1")
    await week.do("dbone", "rm -r /var/lib/mesh-agent")
    await set_up(week, "dbone", "db-1", "db", verb="token")
    await week.see("mesh agent list '!status:active'", "no agent passes the filter")
    for step in ("prepare", "activate", "taint", "revoke"):
        await week.see("mesh ca show", "authority")
        await renewed(week)
        await week.do("ops", f"mesh ca rotate {step}", "authority")
    await rotate_operator(week)
    await week.do("ops", "mesh run --group web -- echo same agents", "same agents")


async def renewed(week: Week) -> None:
    """All hold and trust what the next step asks for; the clients here are asked to."""
    await week.do("ops", "mesh client renew")
    admin = week.hosts["old"].placed("/var/lib/mesh-master/contexts/admin.toml")
    await week.do("old", f"mesh --context {admin} client renew")
    await until(week, lambda said: "agent web" not in said and "agent db" not in said)


async def rotate_operator(week: Week) -> None:
    for step in ("prepare", "activate", "taint", "revoke"):
        await week.do("ops", f"mesh ca rotate {step} --key nats-operator", "nats-operator")
        await until(week, lambda said: "nats-operator" in said and "broker " not in said)


async def until(week: Week, is_right: Callable[[str], bool]) -> None:
    give_up_at = time.monotonic() + LOOK_S
    while True:
        _, said = await week.hosts.do("ops", "mesh ca show")
        if is_right(said):
            return
        assert time.monotonic() < give_up_at, said
        await asyncio.sleep(0.2)


async def saturday(week: Week) -> None:
    week.day("Saturday: a backup is put back on another host, which gets a name of its own")
    await week.unit("old", "stop", "mesh-master")
    state = "--state-dir /var/lib/mesh-master"
    init = f"broker-master init {state}"
    await week.do("old", f"{init} --host new.example.net", "is ready in")
    await week.unit("old", "start", "mesh-master")
    await week.do("ops", "mesh client renew")
    await week.see("mesh agent list 'web-* !addresses:current'", "no agent passes the filter")
    # An agent of the release before learns addresses with its certificate.
    await week.do("ops", "mesh agent rotate db-1 --wait")
    await week.do("ops", "mesh run --group web --id before-backup -- true")
    backup = "/var/tmp/mesh.backup"
    await week.do(
        "old",
        f"broker-master backup {state} --out {backup}",
        "backup of mesh",
    )
    await week.unit("old", "stop", "mesh-master")
    await week.send("old", backup, "new")
    await week.do("old", "mv /var/lib/mesh-master /var/lib/mesh-master.before")
    await week.do("new", f"broker-master restore {state} --backup {backup}", "is restored")
    await week.unit("new", "start", "mesh-master")
    # The release before keeps addresses for its next start.
    await week.unit("dbone", "restart")
    await week.see("mesh agent list '!status:active'", "no agent passes the filter")
    await week.see("mesh command list before-backup", "succeeded")
    await week.see("mesh audit list --action master.restore", "master", "done")
    await week.do("ops", "mesh run --group web -- echo from the new host", "from the new host")
    await week.unit("new", "stop", "mesh-master")
    await week.do("new", f"{init} --drop-host old.example.net", "is ready in")
    await week.unit("new", "start", "mesh-master")
    await week.do("ops", "mesh client renew", "renewed until")
    await week.do("ops", "mesh doctor", "permissions")


async def sunday(week: Week) -> None:
    week.day("Sunday: the last host gets the present release, and the week is looked back at")
    await week.see("mesh agent list --columns agent,status,version", "db-1", "0.1.0")
    await week.do("ops", "mesh agent disable db-1 --wait --note upgrade")
    await week.unit("dbone", "stop")
    await week.hosts.do("dbone", "pip install --upgrade agent_mesh")
    await week.unit("dbone", "start")
    await week.do("ops", "mesh agent enable db-1")
    await week.see("mesh agent list '!status:active'", "no agent passes the filter")
    await week.do("ops", "mesh run --agent db-1 -- echo upgraded", "upgraded")
    await week.see("mesh events --since 1h kind:agent", "db-1")
    await week.see("mesh command list 'state:failed,lost'", "deploy-1")
    await week.see("mesh status", "mesh")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mesh-week-") as folder:
        steps = asyncio.run(play(Path(folder), _print))
    _print(f"\n{steps} commands in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
