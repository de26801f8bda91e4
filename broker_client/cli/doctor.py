"""`mesh doctor`: the way from here to the master, step by step. Needs no JetStream."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from broker_client.api import MeshClient
from broker_client.cli.findings import Finding, Findings, Trouble
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.probe import reach, resolve, shake_hands
from broker_client.cli.report import print_json, print_lines
from broker_client.cli.tables import duration, local_and_utc
from broker_client.cli.terminal import shown
from broker_client.context import Context, context_identity, load_context
from broker_client.runtime.files import read_bytes
from broker_client.runtime.identity import Identity
from broker_client.runtime.logs import configure_logs
from broker_client.runtime.tls import certificate_facts
from schemas.messages.api import StatusAnswer
from schemas.moments import rfc3339

SOON_S: Final = 14 * 86_400
SLOW_S: Final = 1.0
_ASK_ADMIN: Final = "ask an admin for new credentials: `mesh client create`"


def doctor(*, shared: Shared = SHARED) -> int:
    """Check the way from here to the master; exit code 1 if a check fails."""
    configure_logs("error")
    findings = examine(shared.context, shared.timeout)
    if shared.output == "json":
        print_json({"ok": not findings.is_failed, "findings": [*findings]})
    else:
        print_lines(shared, [line for finding in findings for line in _lines(finding)])
    return 1 if findings.is_failed else 0


def examine(given: str | None, timeout_s: float) -> Findings:
    """All checks in order. What builds on a failed one is skipped, and says so."""
    findings = Findings()
    context = findings.look("context", _context, given or "")
    identity = findings.look("credentials", _identity, context)
    findings.look("certificate and clock", _certificate, context if identity else None)
    # One broker that can be reached is enough to go on, but each of them is looked at.
    urls = context.urls if context else ()
    reached = [url for url in urls if _is_reached(findings, url, identity, timeout_s)]
    way = (context, timeout_s) if context and identity and reached else None
    accepted = findings.look("login at the broker", _log_in, way)
    answer = findings.look("answer of the master", _ask, accepted)
    for note in answer.notes if answer else ():
        findings.note("note of the master", "warning", note)
    return findings


def _context(given: str) -> tuple[str, Context]:
    context = load_context(given or None, os.environ)
    return f"{context.name} ({context.role}) of mesh {context.mesh}", context


def _identity(context: Context) -> tuple[str, Identity]:
    identity = context_identity(context)
    name = identity.claims.name
    if name != context.name:
        raise Trouble(
            f"the credentials are those of {name}, and the context says {context.name}",
            "the broker goes by the token, and gives each name its own subjects",
            "use the files as `mesh client create` wrote them",
        )
    return "readable, and they belong together", identity


def _certificate(context: Context) -> tuple[str, str]:
    """Both ends against this host's clock: a wrong clock looks like a wrong certificate."""
    facts = certificate_facts(read_bytes(Path(context.cert)))
    now = time.time()
    until = f"valid until {local_and_utc(rfc3339(facts.not_after))}"
    if now < facts.not_before:
        raise Trouble(
            f"not valid before {local_and_utc(rfc3339(facts.not_before))}",
            f"this host's clock is at least {duration(facts.not_before - now)} behind the mesh's",
            "set the clock: `timedatectl` shows it",
        )
    if now >= facts.not_after:
        ago = duration(now - facts.not_after)
        raise Trouble(f"it ended {ago} ago", "or this host's clock is ahead", _ASK_ADMIN)
    if facts.not_after - now < SOON_S:
        left = duration(facts.not_after - now)
        raise Trouble(until, f"it ends in {left}", _ASK_ADMIN, state="warning")
    return until, facts.serial


def _is_reached(findings: Findings, url: str, identity: Identity | None, timeout_s: float) -> bool:
    host = findings.look(f"address of {url}", resolve, url)
    port = findings.look(f"port of {url}", lambda _: reach(url, timeout_s), host)
    tls = identity.context if identity is not None and port is not None else None
    hands = findings.look(f"TLS with {url}", lambda tls: shake_hands(url, tls, timeout_s), tls)
    return hands is not None


def _log_in(way: tuple[Context, float]) -> tuple[str, tuple[Context, float]]:
    context, timeout_s = way

    async def connect() -> str | None:
        async with MeshClient.connect(context, timeout_s=timeout_s) as mesh:
            return mesh.link.connected_url

    return f"accepted by {asyncio.run(connect())}", way


def _ask(way: tuple[Context, float]) -> tuple[str, StatusAnswer]:
    context, timeout_s = way

    async def ask() -> tuple[StatusAnswer, float]:
        async with MeshClient.connect(context, timeout_s=timeout_s) as mesh:
            began = time.perf_counter()
            return await mesh.status(), time.perf_counter() - began

    answer, took_s = asyncio.run(ask())
    found = f"version {answer.version}, epoch {answer.epoch}, after {took_s * 1e3:.0f} ms"
    if took_s > SLOW_S:
        raise Trouble(
            found,
            "the network, the broker or the master is slow",
            "see the load of the host the master runs on",
            state="warning",
        )
    return found, answer


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.number:>2}  {finding.state:<7}  {shown(finding.check)}"
    lines = [f"{head}: {shown(finding.found)}"]
    for name, text in (("cause", finding.cause), ("cure", finding.cure)):
        if text:
            lines.append(f"             {name}: {shown(text)}")
    return lines
