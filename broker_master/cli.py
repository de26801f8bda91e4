"""`broker-master`: make a mesh, run its master, print a broker's configuration."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, Parameter

from broker_client.runtime.program import run_tool
from broker_client.runtime.stdio import STDOUT, tell
from broker_master import VERSION
from schemas.addresses import place_to_listen
from schemas.faults import Refused

if TYPE_CHECKING:
    from broker_master.settings import MasterSettings

app = App(
    name="broker-master",
    help="The control plane of a mesh.",
    version=VERSION,
    result_action="return_value",
)

_CHECK_S = 5.0

StateDir = Annotated[Path, Parameter(help="The mesh's folder: keys, registry cache, broker state.")]


@app.command
def init(
    *,
    state_dir: StateDir,
    host: tuple[str, ...] = (),
    drop_host: tuple[str, ...] = (),
    new_admin: bool = False,
) -> None:
    """Make a mesh, or complete and renew the one that is there.

    Parameters
    ----------
    state_dir
        The mesh's folder: keys, broker configuration, contexts.
    host
        A name or address under which agents and clients reach the broker; may be given again.
    drop_host
        One of these that is no longer used; may be given again.
    new_admin
        New credentials for the client `admin`; from the next start on its others are refused.
    """
    from broker_master.ca.mesh import init_mesh

    mesh = init_mesh(state_dir, list(host), dropped=drop_host, is_admin_new=new_admin)
    print(f"mesh {mesh.id} is ready in {mesh.directory}")
    print(f"start it:  broker-master serve --state-dir {state_dir}")
    print(f"use it:    mesh --context {mesh.admin_context} status")


@app.command
def serve(  # noqa: PLR0913  (one option of the command line each)
    *,
    state_dir: Path | None = None,
    nats: str | None = None,
    nats_port: int | None = None,
    nats_host: str | None = None,
    urls: list[str] | None = None,
    http: str | None = None,
    config: Path | None = None,
    print_config: bool = False,
    log_level: str | None = None,
) -> None:
    """Run the master until it is asked to stop. Prints one line when it is ready.

    Parameters
    ----------
    state_dir
        The folder that `init` made.
    nats
        Use the broker at this address instead of the embedded one.
    nats_port
        Port of the embedded broker; 0 takes any free one, once and for all.
    nats_host
        Address on which the embedded broker listens.
    urls
        Where agents and clients find the broker, if not at the hosts of `init`; they learn it.
    http
        HOST:PORT for health, metrics and console; a PORT alone is for this machine only.
    config
        A TOML file with settings.
    print_config
        Print every setting with its source, and end.
    log_level
        debug, info, warning or error.
    """
    from broker_client.runtime import failpoints
    from broker_client.runtime.logs import configure_logs
    from broker_client.runtime.settings import load_settings
    from broker_master.settings import MasterSettings, check_settings

    flags: dict[str, Any] = {
        "state_dir": None if state_dir is None else str(state_dir),
        "nats_url": nats,
        "nats_port": nats_port,
        "nats_host": nats_host,
        "urls": urls,
        "http": http,
        "log.level": log_level,
    }
    loaded = load_settings(
        MasterSettings, environ=os.environ, flags=flags, file=config, check=check_settings
    )
    if print_config:
        sys.stdout.write(loaded.render())
        return
    _check_extras(loaded.value)
    failpoints.arm(os.environ)
    configure_logs(loaded.value.log.level, is_bounded=True)
    _run(loaded.value)


def _check_extras(settings: "MasterSettings") -> None:
    """Name all that an install lacks at once; raises Refused (`extra_missing`)."""
    from broker_client.runtime.extras import lacking, no_extras
    from broker_master.broker_child import installed_server

    is_own_broker = settings.nats_url or settings.broker.binary
    missing = ["master"] if lacking("master") else []
    missing += [] if is_own_broker or installed_server() else ["embedded"]
    if missing:
        raise no_extras(missing, "serve")


def _run(settings: "MasterSettings") -> None:
    from broker_client.runtime.descriptors import allow_many_files
    from broker_client.runtime.notify import ServiceManager
    from broker_master.app import serve as run

    # Thousands of records live for a moment only: the default garbage collection after each few
    # hundred costs a tenth of the master's time.
    gc.set_threshold(50_000, 20, 50)
    allow_many_files()
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop
    except ImportError:
        pass
    else:
        loop_factory = uvloop.new_event_loop
    manager = ServiceManager.take_from(os.environ)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run(settings, _say_ready, manager))


def _say_ready(nats: str, http: str) -> None:
    tell(f"ready nats={nats} http={http}\n", STDOUT)


@app.command
def backup(*, state_dir: StateDir, out: Path, nats: str = "") -> None:
    """Write a backup of the mesh, with all that its broker holds. Its master may be running.

    Parameters
    ----------
    state_dir
        The folder that `init` made.
    out
        The file to write. It holds the mesh's private keys: keep it as safe as the folder.
    nats
        The broker's address, if it is not the embedded one.
    """
    from broker_master.backup.service import back_up

    made = asyncio.run(back_up(state_dir, out, nats))
    print(
        f"backup of mesh {made.mesh}: {out}, {len(made.files)} files, {len(made.streams)} streams"
    )
    print(f"put it back:  broker-master restore --state-dir NEW --backup {out}")


@app.command
def restore(
    *, state_dir: StateDir, backup: Path | None = None, nats: str = "", above: int = 0
) -> None:
    """Restore a state directory from a backup, or note that another program has restored it.

    Parameters
    ----------
    state_dir
        The folder to make, new or empty; without a backup, the restored folder.
    backup
        The file that `backup` wrote.
    nats
        The broker's address, if it is not the embedded one; it must not hold a mesh.
    above
        An epoch that agents have obeyed: the agent that refuses the master names it.
    """
    from broker_master.services.restore import note_restore

    if backup is None:
        note_restore(state_dir, above=above)
    else:
        from broker_master.backup.service import put_back

        asyncio.run(put_back(state_dir, backup, nats))
        if above:
            note_restore(state_dir, above=above)
    print(f"{state_dir} is restored; start it:  broker-master serve --state-dir {state_dir}")
    print("never start a master on the state that this one replaces")
    print("done since the backup and to be done again: revocations, new agents, new clients")


@app.command
def broker_config(
    *,
    state_dir: StateDir,
    listen: str = "0.0.0.0:4222",
    monitor: str = "",
    out: Path | None = None,
) -> None:
    """Print a nats-server.conf for an own server or cluster that trusts this mesh.

    Parameters
    ----------
    state_dir
        The folder that `init` made.
    listen
        HOST:PORT for clients; a PORT alone is for this machine only.
    monitor
        HOST:PORT of the server's own health page; a PORT alone is for this machine only.
    out
        A folder of the broker's own, for another host or user: gets nats.conf, certificate, key and
        CA, and nothing else of the mesh. The configuration names them by this path.
    """
    from broker_client.runtime.files import write_public
    from broker_master.broker_config import render_config, with_own_files
    from broker_master.ca.mesh import open_beside

    host, port = place_to_listen("--listen", listen)
    mesh = open_beside(state_dir)
    files = mesh.broker_files()
    text = render_config(
        host=host,
        port=port,
        name=f"mesh-{mesh.id}",
        files=files if out is None else with_own_files(files, out.absolute()),
        trust=mesh.broker_trust(),
        monitor=place_to_listen("--monitor", monitor) if monitor else None,
    )
    if out is None:
        sys.stdout.write(text)
    else:
        write_public(out.absolute() / "nats.conf", text.encode())
        print(f"start it:  nats-server --config {out.absolute() / 'nats.conf'}")


@app.command
def monitoring(
    *,
    out: Path,
    console: str | None = None,
    grafana: str | None = None,
    runbooks: str | None = None,
    config: Path | None = None,
) -> None:
    """Write dashboards, Prometheus rules, alerts and runbooks, with links that work from outside.

    Parameters
    ----------
    out
        The folder to write them into; made if it is missing.
    console
        Address of the master's pages, as others reach it; the setting console.public_url.
    grafana
        Address of Grafana, for links of alerts; the setting console.grafana_url.
    runbooks
        Address where runbooks.md is published; the setting console.runbooks_url.
    config
        A TOML file with settings, as for `serve`.
    """
    from broker_client.runtime.settings import load_settings
    from broker_master.monitoring import write_monitoring
    from broker_master.settings import MasterSettings, check_settings

    given = {"public_url": console, "grafana_url": grafana, "runbooks_url": runbooks}
    flags = {f"console.{name}": value for name, value in given.items()}
    loaded = load_settings(
        MasterSettings, environ=os.environ, flags=flags, file=config, check=check_settings
    )
    for path in write_monitoring(out, loaded.value.console):
        print(path)


@app.command
def check(*, http: str = "127.0.0.1:8080") -> None:
    """Ask a running master whether it is ready: exit code 0, or 7.

    Parameters
    ----------
    http
        HOST:PORT of its console, or its PORT on this machine.
    """
    from http.client import HTTPConnection, HTTPException

    host, port = place_to_listen("--http", http)
    connection = HTTPConnection(host, port, timeout=_CHECK_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read(200).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise Refused("not_ready", f"no master answers at {http}: {why}") from error
    finally:
        connection.close()
    if answer.status != HTTPStatus.OK:
        raise Refused("not_ready", f"the master at {http} is not ready: {said}")
    print(said)


def main() -> NoReturn:
    """Run the command line; the only place that ends the process."""
    from broker_client.cli.shell.tool import call_tool
    from broker_client.cli.words import asked_output

    is_json = asked_output(sys.argv[1:]) == "json"
    run_tool("broker-master", lambda: call_tool(app, sys.argv[1:]), is_json=is_json)
