"""`mesh doctor`: checks of the connection to the master, step by step, without JetStream."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from broker_client.api import MeshClient
from broker_client.asking import fault_of
from broker_client.cli.doctor import way
from broker_client.cli.doctor.findings import Finding, Findings, Trouble, lines_of
from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.report import print_json, print_lines, say
from broker_client.context import Context, context_identity, load_context
from broker_client.runtime.context_files import ContextFiles
from broker_client.runtime.files import read_bytes
from broker_client.runtime.identity import Identity
from broker_client.runtime.logs import configure_logs
from schemas import subjects
from schemas.faults import Unreachable
from schemas.messages.api import StatusAnswer
from schemas.permissions import SCOPES

SLOW_S: Final = 1.0
# The only byte that msgpack leaves unused.
_NONSENSE: Final = b"\xc1"
_RENEW: Final = "try it: `mesh client renew`; at the end of the certificate an admin has to help"
_ASK_ADMIN: Final = "ask an admin for new credentials: `mesh client create`"


def doctor(*, shared: Shared = SHARED) -> int:
    """Check the way from here to the master; exit code 1 if a check fails."""
    configure_logs("error")

    def show(finding: Finding) -> None:
        if shared.output != "json":
            print_lines(shared, lines_of(finding), flush=True)

    findings = examine(shared.context, shared.timeout, Findings(show, say))
    if shared.output == "json":
        print_json({"ok": not findings.is_failed, "findings": [*findings]})
    return 1 if findings.is_failed else 0


def examine(given: str | None, timeout_s: float, findings: Findings) -> Findings:
    """Run all checks in order; checks that depend on a failed one are reported as skipped."""
    context = findings.look("context", _context, given or "")
    identity = findings.look("credentials", _identity, context)
    findings.look("certificate and clock", _certificate, context if identity else None)
    if context and (failure := ContextFiles(context).failure):
        findings.note("renewal", "warning", "the last one failed", failure, _RENEW)
    # One reachable broker is enough to continue, but each broker is checked.
    urls = context.urls if context else ()
    reached = way.reached(findings, urls, identity, timeout_s)
    link_way = (context, timeout_s) if context and identity and reached else None
    accepted = findings.look("login at the broker", _log_in, link_way)
    answer = findings.look("answer of the master", _ask, accepted)
    findings.look("clock", _clock, answer if answer and answer.at else None)
    findings.look("permissions", _permissions, accepted if answer else None)
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
    return way.certificate(read_bytes(Path(context.cert)), _ASK_ADMIN)


def _log_in(given: tuple[Context, float]) -> tuple[str, tuple[Context, float]]:
    context, timeout_s = given

    async def connect() -> str | None:
        async with MeshClient.connect(context, timeout_s=timeout_s) as mesh:
            return mesh.link.connected_url

    return f"accepted by {asyncio.run(connect())}", given


def _ask(given: tuple[Context, float]) -> tuple[str, StatusAnswer]:
    context, timeout_s = given

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


def _permissions(given: tuple[Context, float]) -> tuple[str, Context]:
    """Check each subject of the role: at the broker by a try, at the master by invalid requests.

    The master refuses a request that is no map before it has any effect.
    """
    context, timeout_s = given

    async def look() -> list[tuple[str, str]]:
        async with MeshClient.connect(context, timeout_s=timeout_s) as mesh:
            scope = SCOPES[context.role]
            refused = await way.permitted(mesh.link, context.name, scope, "", timeout_s)
            verbs = [subject.split(".")[-2:] for subject in _calls(context.role)]
            answers = await asyncio.gather(
                *(_is_let(mesh, noun, verb, timeout_s) for noun, verb in verbs)
            )
            calls = [".".join(verb) for verb, let in zip(verbs, answers, strict=True) if not let]
            return [*refused, *(("call", call) for call in calls)]

    refused = asyncio.run(look())
    if refused:
        raise Trouble(
            f"may not {', '.join(f'{what} {subject}' for what, subject in refused[:6])}",
            "the broker or the master goes by other permissions than this release",
            "restart the master, which renews them at the broker; or ask for new credentials",
        )
    return f"all of role {context.role}: {len(_calls(context.role))} verbs tried", context


def _calls(role: str) -> list[str]:
    """Return the verbs of the role; an admin may call an operator's verbs, too."""
    scope = SCOPES["operator" if role == "admin" else role]
    return [subject for subject in scope.publish if ".api." in subject]


async def _is_let(mesh: MeshClient, noun: str, verb: str, timeout_s: float) -> bool:
    subject = subjects.api(mesh.name, noun, verb)
    try:
        answer = await mesh.link.request(subject, _NONSENSE, timeout_s)
    except Unreachable:
        return False
    error = fault_of(answer)
    return error is not None and error.code in ("malformed", "verb_unknown")


def _clock(answer: StatusAnswer) -> tuple[str, float]:
    return way.clock_against(answer.at)
