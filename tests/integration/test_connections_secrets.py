"""Secrets of profiles stay on their host, whatever fails on the way to a system."""

import asyncio
import base64
import contextlib
import os
import secrets
import signal
import socketserver
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil
import pytest
from nats.aio.msg import Msg

from broker_client.api import MeshClient
from schemas.messages.actions.http import HttpRequestArgs
from schemas.messages.actions.script import ScriptRunArgs
from schemas.messages.api import NameQuery
from schemas.messages.api.connections import (
    ConnectionCreate,
    ConnectionRecord,
    ConnectionTest,
    ConnectionTestAnswer,
)
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.meshes import issuer, raw
from tests.plugins import install_plugin
from tests.vault import vault_server
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-secrets")]

KINDS: Final = (
    *("plain", "file", "env", "command", "credential", "vault", "secret-id", "token"),
    *("crash", "basic", "bearer", "header", "sftp", "mysql", "broken", "open", "script"),
)


class Echoes(socketserver.ThreadingTCPServer):
    """A system that refuses each login and tells the password that it was given, in all forms."""

    daemon_threads = True

    def __init__(self, word: str) -> None:
        super().__init__(("127.0.0.1", 0), EchoHandler)
        self.word = word
        self.heard: set[str] = set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class EchoHandler(socketserver.StreamRequestHandler):
    server: Echoes

    def handle(self) -> None:
        value = self.rfile.readline().decode().strip()
        self.server.heard.add(value)
        basic = base64.b64encode(f"mesh:{value}".encode()).decode()
        said = f"{self.server.word}: {value} {quote(value)} {basic} {value.encode().hex()}\n"
        with contextlib.suppress(OSError):
            self.wfile.write(said.encode())


@contextlib.contextmanager
def echoes(word: str) -> Iterator[Echoes]:
    with Echoes(word) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Host:
    """A host with a profile of each kind, each with a canary of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canaries = {kind: f"CANARY-{kind}-{secrets.token_hex(8)}" for kind in KINDS}
        folder.mkdir(mode=0o700)

    def keep(self, kind: str) -> Path:
        """Put a canary into a file of its own."""
        path = self.folder / kind
        path.write_text(self.canaries[kind] + "\n")
        path.chmod(0o600)
        return path

    def environment(self, vault: str) -> dict[str, str]:
        self.keep("credential")
        return {
            **install_plugin(self.folder / "site"),
            "ERP_PASSWORD": self.canaries["env"],
            "CREDENTIALS_DIRECTORY": str(self.folder),
            "MESH_PROFILES_DIR": "",
            "MESH_PROFILES_S": "0.2",
            "MESH_CONNECTORS__VAULT__ADDRESS": vault,
            "MESH_CONNECTORS__VAULT__ROLE_ID": "role-1",
            "MESH_CONNECTORS__VAULT__SECRET_ID_FILE": str(self.keep("secret-id")),
            # Tasks of another user, who is to find nothing; root's agent has none by default.
            "MESH_TASKS__USER": "",
        }

    def profiles(self, refuses: int, crashes: int) -> Mapping[str, str]:
        known = self.canaries
        hosts = self.folder / "known_hosts"
        hosts.touch()
        files = {kind: self.keep(kind) for kind in ("file", "command", "header", "sftp")}
        password = {
            "plain": f'{{ plain = "{known["plain"]}" }}',
            "file": f'{{ file = "{files["file"]}" }}',
            "env": '{ env = "ERP_PASSWORD" }',
            "command": f'{{ command = ["/bin/cat", "{files["command"]}"] }}',
            "credential": '{ credential = "credential" }',
            "vault": '{ vault = "kv/erp#password" }',
        }
        gauge = 'kind = "gauge"\nhost = "127.0.0.1"\nport = '
        http = 'kind = "http"\nbase_url = "http://127.0.0.1:1"\nnetworks = ["127.0.0.0/8"]\n'
        here = {
            f"g-{kind}": f"{gauge}{refuses}\npassword = {said}\n" for kind, said in password.items()
        }
        return {
            **here,
            "g-crash": f'{gauge}{crashes}\npassword = {{ plain = "{known["crash"]}" }}\n',
            "h-basic": f'{http}user = "mesh"\npassword = {{ plain = "{known["basic"]}" }}\n',
            "h-bearer": f'{http}token = {{ plain = "{known["bearer"]}" }}\n',
            "h-header": f'{http}secret_headers.X-Key = {{ file = "{files["header"]}" }}\n',
            "s-sftp": 'kind = "sftp"\nhost = "127.0.0.1"\nport = 1\nuser = "mesh"\nbase = "/srv"\n'
            f'known_hosts = "{hosts}"\npassword = {{ file = "{files["sftp"]}" }}\n',
            "m-mysql": f'kind = "mysql"\nhost = "127.0.0.1"\nport = {refuses}\nuser = "mesh"\n'
            f'database = "erp"\npassword = {{ plain = "{known["mysql"]}" }}\n',
            "p-script": f'kind = "script"\n[scripts.leak]\nargv = ["/usr/bin/env"]\n'
            f'secrets.ERP_KEY = {{ file = "{self.keep("script")}" }}\n',
            "x-broken": f'{gauge}7000\npassword = {{ plain = "{known["broken"]}" }}\nmode = fast\n',
            "x-open": f'{gauge}7000\npassword = {{ plain = "{known["open"]}" }}\n',
        }


async def put(mesh: MeshProcesses, agent: str, profiles: Mapping[str, str]) -> None:
    folder = mesh.agent_dir(agent) / "profiles.d"
    folder.mkdir(mode=0o700)
    for name, text in profiles.items():
        path = folder / f".{name}"
        path.write_text(text)
        path.chmod(0o644 if name == "x-open" else 0o600)
        path.rename(folder / f"{name}.toml")


def group_of(name: str) -> str:
    """The group of a connection; scripts run where tasks may start Python, which root may own."""
    return "ops" if name.startswith("p-") else "db"


async def connect(client: MeshClient, name: str, text: str) -> ConnectionRecord:
    kind = text.partition('"')[2].partition('"')[0]
    while True:
        with contextlib.suppress(Exception):
            request = ConnectionCreate(name=name, kind=kind, group=group_of(name))
            return await client.ask("connection", "create", request, ConnectionRecord)
        await asyncio.sleep(0.1)


async def fail(client: MeshClient, name: str) -> ConnectionTestAnswer:
    """Force the failure of a connection, by a test and by a call; returns the test's answer."""
    request = ConnectionTest(name=name, timeout_s=30)
    if name.startswith("h-"):
        way: Any = {"connection": name}
        ended = await client.run(HttpRequestArgs(path="/"), **way)
        assert ended.state == "failed", ended
    if name.startswith("p-"):
        script: Any = {"connection": name, "with_output": True}
        ended = await client.run(ScriptRunArgs(script="leak"), **script)
        assert ended.output is not None, ended
        assert b"ERP_KEY=***\n" in ended.output.stdout, ended
    return await client.ask("connection", "test", request, ConnectionTestAnswer)


def workers_of(mesh: MeshProcesses) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(mesh.agents["db-1"].pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("connectors" in word for word in process.cmdline()):
                found.append(process)
    return found


def arguments() -> str:
    """Command lines of all processes, as `ps` shows them."""
    said = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            said.append(" ".join(process.cmdline()))
    return "\n".join(said)


def forms_of(value: str) -> list[bytes]:
    plain = value.encode()
    return [plain, plain.hex().encode(), base64.b64encode(plain)[:-4]]


def kinds_in(data: bytes, known: Mapping[str, str]) -> list[str]:
    return [kind for kind, value in known.items() if any(form in data for form in forms_of(value))]


def hits_below(folder: Path, known: Mapping[str, str]) -> list[str]:
    """Files of the whole mesh that hold a canary, but for the profiles themselves."""
    return [
        f"{kind} in {path}"
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.parent.name != "profiles.d"
        for kind in kinds_in(path.read_bytes(), known)
    ]


async def fail_all(client: MeshClient, profiles: Mapping[str, str]) -> str:
    """Force the failure of each connection; returns what the systems have said."""
    said = ""
    for name, text in profiles.items():
        async with asyncio.timeout(PATIENCE_S):
            await connect(client, name, text)
        if not name.startswith("x-"):
            answer = await fail(client, name)
            is_ok = name.startswith("p-")
            assert [each.result == "ok" for each in answer.members] == [is_ok], answer
            said += answer.members[0].reason
        shown = await client.ask("connection", "show", NameQuery(name=name), ConnectionRecord)
        assert [bool(each.problem) for each in shown.members] == [name.startswith("x-")], shown
    return said


async def look_around(client: MeshClient) -> bytes:
    """Let a task of another user read what /proc shows of all processes."""
    look = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; id -u"
    seen = await client.run(["sh", "-c", look], agent="db-1")
    got = bytearray()
    async for chunk in client.logs(seen.id):
        got += chunk.data
    if os.geteuid() == 0:
        assert got.rstrip().rpartition(b"\0")[2] != b"0"
    return bytes(got)


async def tell_on_host(mesh: MeshProcesses) -> str:
    """Output of the commands of the host."""
    said, where = "", ("--state-dir", str(mesh.agent_dir("db-1")))
    for words in (("profile", "list"), ("profile", "check"), ("doctor",), ("status",)):
        ran = await mesh._run("broker-agent", *words, *where)
        said += ran.out + ran.err
    ran = await mesh._run("broker-agent", "profile", "test", "g-plain", *where)
    assert ran.code == 77, ran
    return said + ran.out + ran.err


async def crash_workers(mesh: MeshProcesses, client: MeshClient) -> None:
    """End waiting workers as a defect of a driver does; their next calls have others."""
    crashed = workers_of(mesh)
    assert crashed
    for process in crashed:
        process.send_signal(signal.SIGSEGV)
    gone = {process.pid for process in crashed}
    await eventually(lambda: not gone & {process.pid for process in workers_of(mesh)})
    await fail(client, "g-plain")


async def test_connections_f15_no_canary_leaves_its_host(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    known = host.canaries
    wire = bytearray()

    async def hear(msg: Msg) -> None:
        wire.extend(msg.subject.encode() + b" " + msg.data + b"\n")

    vault = vault_server(known["vault"], known["secret-id"], known["token"])
    with vault as safe, echoes("no") as refuses, echoes("crash") as crashes:
        env = {**FAST_TIMERS, **host.environment(safe.address)}
        async with MeshProcesses(tmp_path / "mesh", env=env) as mesh:
            envs = {"ops": {"MESH_TASKS__USER": str(os.geteuid())}}
            for group in ("db", "ops"):
                await mesh.add_group(group)
                await mesh.add_agent(f"{group}-1", group=group, slots=8, env=envs.get(group))
            for kind, canary in known.items():
                mesh.canaries.note(kind, canary)
            async with raw(issuer(mesh).issue("master", "probe")) as probe, mesh.client() as client:
                await probe.subscribe(">", cb=hear)
                await probe.flush()
                profiles = host.profiles(refuses.port, crashes.port)
                for group in ("db", "ops"):
                    own = {name: profiles[name] for name in profiles if group_of(name) == group}
                    await put(mesh, f"{group}-1", own)
                said = await fail_all(client, profiles)
                assert "[secret]" in said, "a system has told the password, and it was cut out"
                task = await look_around(client)
                shown = arguments()
                await crash_workers(mesh, client)
                shown += await tell_on_host(mesh)
                await probe.flush()
            # Those that were in use could have come to light.
            names = ("plain", "file", "env", "command", "credential", "vault")
            assert refuses.heard >= {known[name] for name in names}
            assert crashes.heard == {known["crash"]}
            texts = {"wire": bytes(wire), "task": task, "commands": shown.encode()}
            hits = [
                f"{kind} in {place}"
                for place, data in texts.items()
                for kind in kinds_in(data, known)
            ]
            hits += hits_below(mesh.directory, known)
            assert not hits
            assert wire
