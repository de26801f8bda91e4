"""Recovers the state of a starting master from the facts."""

from pathlib import Path

import msgspec
import structlog

from broker_client.runtime.files import os_errors, read_bytes
from broker_client.runtime.identity import CA_FILE, CERT_FILE, read_identity
from broker_client.runtime.nkeys import decode_user_jwt
from broker_client.runtime.streams import Streams
from broker_client.runtime.tls import certificate_facts, trust_digest
from broker_master.ca.claims import decode_jwt
from broker_master.ca.mesh import ADMIN, SOLE_FILE, Mesh
from broker_master.core import attempts
from broker_master.core.certificates import all_retired
from broker_master.core.commands import Attempt, Command
from broker_master.core.phases import Phase
from broker_master.core.records import command_record
from broker_master.core.statuses import restore
from broker_master.core.ways import way_of
from broker_master.plane import OPEN_IN_BACKUP, Plane
from broker_master.services.cancel import Canceller
from broker_master.services.historian import Historian
from broker_master.services.presence import PresenceService
from broker_master.services.settle import Settler
from broker_master.store.facts import HISTORY
from broker_master.store.readmodel import HistoryRow
from broker_master.store.statuses import NO_PASTS, Pasts
from schemas import codec, subjects
from schemas.faults import Refused
from schemas.messages.facts import HistoryRecord
from schemas.messages.registry import CertificateEntry, ClientEntry
from schemas.states import Admin

log = structlog.get_logger()

_ROWS = 1000


async def rebuild_readmodel(plane: Plane, streams: Streams) -> int:
    """Read the history stream from the read model's position on. Returns the number of records."""
    rows: list[HistoryRow] = []
    read = 0
    async for message in streams.replay(HISTORY, plane.readmodel.position + 1):
        try:
            history = codec.decode_trusted(HistoryRecord, message.data)
            if message.subject != subjects.history(history.record.group):
                raise Refused("malformed", "the record of another group")
        except Refused as error:
            plane.telemetry.strays.note(HISTORY, message.seq, message.subject, error)
            continue
        rows.append(HistoryRow(message.seq, history, message.data))
        if len(rows) >= _ROWS:
            await plane.readmodel.add(rows)
            read += len(rows)
            rows.clear()
    if rows:
        await plane.readmodel.add(rows)
    return read + len(rows)


async def replay_facts(plane: Plane, historian: Historian) -> None:
    """Fold the event stream into the book; ended commands go to history if they are missing there.

    Commands come back in the order of submission, also those whose facts were carried forward
    since.
    """
    book = plane.book
    async for fact, body, sequence in plane.facts.replay():
        book.replay(fact, body, sequence)
    book.end_replay()
    ended = 0
    for command in book:
        known = plane.readmodel.known(command.id)
        if not command.is_terminal:
            # Ended, by its history: its last facts were carried forward while it ended, and the
            # fact of its end was purged. It must not run again.
            if known is not None:
                book.forget(command.id)
        elif known is not None and known.state == command.state:
            book.forget(command.id)
        else:
            historian.add(command, command_record(command, plane.timers, with_output=True))
            ended += 1
    log.info("facts_replayed", open=len(book) - ended, unrecorded=ended)


async def enter_admin(plane: Plane, mesh: Mesh) -> bool:
    """Enter the client that `init` made or renewed without a master into the registry.

    Returns whether its earlier credentials are refused from now on.
    """
    folder = mesh.admin_context.with_suffix("")
    certificate = _certificate_in(folder, mesh)
    trust = trust_digest(read_bytes(folder / CA_FILE))
    is_sole = (folder / SOLE_FILE).exists()
    if ADMIN in plane.registry.clients:

        def renewed(entry: ClientEntry) -> ClientEntry:
            if certificate in entry.certificates and not is_sole:
                return entry
            kept = [each for each in entry.certificates if each.serial != certificate.serial]
            if is_sole:
                kept = all_retired(kept, plane.clock.now())
            return msgspec.structs.replace(
                entry,
                certificates=[*kept, certificate],
                trust=trust,
                revoked=entry.revoked and not is_sole,
            )

        await plane.registry.change_client(ADMIN, renewed)
        if is_sole:
            log.warning("admin_made_anew", serial=certificate.serial)
            with os_errors(folder, "clear"):
                (folder / SOLE_FILE).unlink()
        return is_sole
    await plane.registry.create_client(
        ClientEntry(
            name=ADMIN,
            role="admin",
            created_at=plane.clock.now(),
            created_by="init",
            certificates=[certificate],
            trust=trust,
        )
    )
    return False


def _certificate_in(folder: Path, mesh: Mesh) -> CertificateEntry:
    """The registry's entry of credentials that were made without a master."""
    creds = read_identity(folder).creds
    cert_pem = read_bytes(folder / CERT_FILE)
    facts = certificate_facts(cert_pem)
    signed_by = decode_jwt(creds.jwt)["iss"]
    return CertificateEntry(
        serial=facts.serial,
        not_after=facts.not_after,
        user_nkey=decode_user_jwt(creds.jwt).user,
        issued_at=facts.not_before,
        fingerprint=facts.fingerprint,
        authority=mesh.authority.signer_of(cert_pem),
        signer=mesh.accounts.signer_of(ADMIN, signed_by),
    )


def enter_agents(plane: Plane, pasts: Pasts = NO_PASTS) -> None:
    """Every registered agent is silent until its first beat.

    pasts: their statuses under the previous master, with start times.
    """
    clock = plane.clock
    plane.statuses.recall(pasts.agents, pasts.groups, pasts.connections)
    plane.statuses.left_at = pasts.at
    for group in plane.registry.groups.values():
        plane.dispatcher.set_policy(group.name, group.policy)
    for connection in plane.registry.connections.values():
        plane.dispatcher.ways.put(connection.name, way_of(connection))
    for entry in plane.registry.agents.values():
        presence = plane.roster.add(
            entry.group,
            entry.name,
            # A deleted agent sends nothing, but its tasks count until the lease is over.
            connected=entry.connected or entry.admin == Admin.DELETED,
            at=clock.now(),
            now_s=clock.elapsed(),
        )
        past = pasts.agents.get(entry.name)
        if past is not None and past.created_at == entry.created_at:
            restore(presence, past)
        plane.dispatcher.set_member(
            entry.group, entry.name, slots=0, ready=False, traits=entry.traits
        )


def resume(plane: Plane) -> list[Command]:
    """Queue open commands again. Returns those with a recorded cancel.

    Attempts keep their agents: the handshakes tell their state.
    """
    cancelled = []
    for command in sorted(plane.book, key=lambda c: (c.accepted.submitted_at, c.order)):
        if command.is_terminal:
            continue
        if command.cancel_by:
            cancelled.append(command)
        attempt = command.open_attempt
        if command.id in plane.doubtful and attempt is None:
            attempts.on_doubted(command, f"not given to any agent, {OPEN_IN_BACKUP}")
        elif command.phase is Phase.WAITING:
            plane.dispatcher.enqueue(plane.dispatcher.wish(command.accepted), command.id)
        elif attempt is not None and plane.roster.get(attempt.agent) is not None:
            plane.dispatcher.take(attempt.agent, command.accepted.connection)
    return cancelled


def orphans(plane: Plane) -> list[tuple[Command, Attempt]]:
    """Open attempts on deleted agents: no report of them can come."""
    return [
        (command, attempt)
        for command in plane.book
        if (attempt := command.open_attempt) is not None and plane.roster.get(attempt.agent) is None
    ]


async def recover(
    plane: Plane,
    streams: Streams,
    historian: Historian,
    canceller: Canceller,
    settler: Settler,
    presence: PresenceService,
) -> None:
    """Recover the book from the facts, and carry on with recorded requests."""
    await rebuild_readmodel(plane, streams)
    await replay_facts(plane, historian)
    presence.aftermath.begin()
    for command in resume(plane):
        canceller.carry_out(command)
    for command, attempt in orphans(plane):
        settler.give_up(command, attempt)
