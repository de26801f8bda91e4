"""An installed package with connectors, as another team would write it, for agents of tests."""

import os
import textwrap
from pathlib import Path
from typing import Final

# Kinds that the package brings, with the names of their modules.
KIND: Final = "gauge"

_CODE: Final = '''
    """Connector of a gauge: one line of text over TCP."""

    import os
    import socket
    import time
    from typing import Literal

    import msgspec

    from broker_agent.connectors.api import ActionSpec, CallFailed, Profile, Secret


    class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        user: str = "mesh"
        token: Secret | None = None


    class Gauge(Profile, frozen=True):
        host: str
        port: int = 7000
        mode: Literal["fast", "safe"] = "safe"
        password: Secret | None = None
        auth: Auth = Auth()
        units: dict[str, str] = {}


    class ReadArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        unit: str = ""


    class Session:
        server_id = ""
        is_broken = False

        def __init__(self, link, secrets):
            self.link, self.secrets = link, secrets

        def call(self, action, args, out, call):
            answer = self.ask()
            if answer.startswith(b"crash"):
                raise RuntimeError(f"{answer!r} from {self.secrets}")
            if not answer.startswith(b"ok"):
                raise CallFailed("target_refused", answer.decode(), effect="none")
            out.write(answer)
            return {"unit": args.unit}

        def ask(self):
            self.link.sendall((self.secrets.get("password", "") + "\\n").encode())
            return self.link.makefile("rb").readline()

        def test(self, step):
            answer = self.ask().decode()
            if answer.startswith("crash"):
                raise RuntimeError(f"{answer} from {self.secrets}")
            if not answer.startswith("ok"):
                raise CallFailed("login_refused", f"refused: {answer.strip()}", effect="none")
            step("login")
            return answer.strip()

        def cancel(self):
            self.link.shutdown(socket.SHUT_RDWR)

        def close(self):
            self.link.close()


    class Connector:
        kind = "gauge"
        capability = "gauge"
        profile = Gauge
        actions = {"gauge.read": ActionSpec(args=ReadArgs, effect="reads")}

        def check(self, profile):
            if profile.host == "loops":
                while True:
                    pass
            if profile.host == "forks" and not os.fork():
                time.sleep(3600)
            return ["port is below 1024"] if profile.port < 1024 else []

        def open(self, profile, secrets):
            print("a plug-in that prints")
            try:
                link = socket.create_connection((profile.host, profile.port), 5)
            except OSError as error:
                raise CallFailed("target_unreachable", str(error), effect="none") from error
            return Session(link, secrets)

        def kill(self, profile, secrets, server_id):
            pass


    CONNECTOR = Connector()
'''


def install_plugin(folder: Path) -> dict[str, str]:
    """Install the package below `folder`; returns the environment in which it is found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gauge_connector.py").write_text(textwrap.dedent(_CODE))
    facts = folder / "gauge_connector-1.0.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: gauge-connector\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[agent_mesh.connectors]\ngauge = gauge_connector:CONNECTOR\n"
    )
    known = os.environ.get("PYTHONPATH", "")
    path = f"{folder}:{known}" if known else str(folder)
    return {"PYTHONPATH": path, "MESH_CONNECTORS__PLUGINS": KIND}
