"""The master's second link: lists and ends connections, and updates the account."""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import msgspec
import structlog

from broker_client.runtime.frames import Msg
from broker_client.runtime.link import Link
from schemas.faults import Corrupt, Refused, Unreachable

log = structlog.get_logger()

# A cluster's nodes answer one by one; this long after the last answer there are no more.
_GATHER_S = 0.15
_PAGE = 1024
# Up to so many new connections are looked up one by one, so many at a time; more only while they
# are not the majority.
_EACH_MAX = 64
_AT_ONCE = 32

A = TypeVar("A")
# A node's id, which is new with each of its starts, and the number of a connection there.
_Place = tuple[str, int]


class Connection(msgspec.Struct, frozen=True):
    """One live connection. user: its public broker key; token: of its user.

    certificate: SHA-256 of its certificate, lower-case hex; subject: of the certificate; authority:
    SHA-256 of the issuer's certificate. Empty: the broker does not report it.
    """

    server: str
    cid: int
    user: str
    address: str
    token: str = ""
    certificate: str = ""
    subject: str = ""
    authority: str = ""


class _Shown(msgspec.Struct):
    subject: str = ""
    cert_sha256: str = ""


class _Entry(msgspec.Struct):
    cid: int
    in_msgs: int = 0
    in_bytes: int = 0
    ip: str = ""
    port: int = 0
    authorized_user: str = ""
    jwt: str = ""
    tls_peer_certs: list[_Shown] = []


class _Server(msgspec.Struct):
    id: str = ""


class _Node(msgspec.Struct):
    name: str = ""


class _Trusted(msgspec.Struct):
    signing_keys: list[str] = []


class _Operator(msgspec.Struct):
    nats: _Trusted = msgspec.field(default_factory=_Trusted)


class _Facts(msgspec.Struct):
    trusted_operators_claim: list[_Operator] = []


class _Varz(msgspec.Struct):
    """The used part of a node's account of itself."""

    server: _Node = msgspec.field(default_factory=_Node)
    data: _Facts = msgspec.field(default_factory=_Facts)


class _Entries(msgspec.Struct):
    connections: list[_Entry] = []


class _Connz(msgspec.Struct):
    """The used part of the broker's answer: thousands of entries are read at a time."""

    server: _Server = msgspec.field(default_factory=_Server)
    data: _Entries = msgspec.field(default_factory=_Entries)


class BrokerSystem:
    def __init__(self, link: Link, *, account: str, request_s: float) -> None:
        self._link = link
        self._account = account
        self._request_s = request_s
        self._known: dict[_Place, Connection] = {}

    async def watch(
        self, on_change: Callable[[str, dict[str, Any]], None], on_back: Callable[[], None]
    ) -> None:
        """Subscribe to each connect (`CONNECT`) and disconnect (`DISCONNECT`) in the account.

        on_change: called with the kind and the broker's advisory. on_back: the link was lost for a
        moment, and events of that time are missing.
        """

        def take(msg: Msg) -> None:
            with contextlib.suppress(Corrupt):
                on_change(msg.subject.rpartition(".")[2], _json(msg.data))

        for kind in ("CONNECT", "DISCONNECT"):
            self._link.subscribe(f"$SYS.ACCOUNT.{self._account}.{kind}", take)
        await self._link.flush()
        self._link.on_connected(on_back)

    async def update_account(self, token: str) -> None:
        """Publish the account's token; the broker then disconnects users that it refuses.

        Raises Unreachable, or Refused (`store_unavailable`) if the broker does not take it.
        """
        answer = await self._link.request("$SYS.REQ.CLAIMS.UPDATE", token.encode(), self._request_s)
        body = _json(answer.data)
        code = body.get("data", {}).get("code")
        if code != 200:
            detail = body.get("error", {}).get("description", "no reason given")
            raise Refused("store_unavailable", f"the broker refused the account: {detail}")

    async def connections(self) -> list[Connection]:
        """All connections of the mesh's account, on every node.

        The data of a connection are constant until it ends, and are fetched once: the broker reads
        and verifies the token for each answer again (2,000: 3 s of a core).
        """
        live = {(server, entry.cid) for server, entry in await self._pages({"acc": self._account})}
        known = {place: each for place, each in self._known.items() if place in live}
        fresh = live - known.keys()
        if len(fresh) > max(_EACH_MAX, len(live) // 2):
            found = await self._pages({"auth": True, "acc": self._account})
            known = {(server, entry.cid): _connection(server, entry) for server, entry in found}
        else:
            known |= await self.look_up(sorted(fresh), is_strict=False)
        self._known = known
        return list(known.values())

    async def sent_bytes(self) -> dict[_Place, int]:
        """Bytes sent so far by every live connection of the account."""
        found = await self._pages({"acc": self._account})
        return {(server, entry.cid): entry.in_bytes for server, entry in found}

    async def sent_to(self, nodes: Collection[str]) -> dict[_Place, tuple[int, int]]:
        """Messages and bytes sent by every live connection of the account to these nodes.

        A node that does not answer has none.
        """
        found = await asyncio.gather(*(self._sent_to(node) for node in nodes))
        return {place: sent for each in found for place, sent in each.items()}

    async def _sent_to(self, node: str) -> dict[_Place, tuple[int, int]]:
        found: dict[_Place, tuple[int, int]] = {}
        offset = 0
        while True:
            query = {"acc": self._account, "limit": _PAGE, "offset": offset}
            subject = f"$SYS.REQ.SERVER.{node}.CONNZ"
            try:
                answer = await self._link.request(
                    subject, msgspec.json.encode(query), self._request_s
                )
            except Unreachable as error:
                log.info("node_silent", node=node, error=str(error))
                return {}
            page = _entries(answer.data)
            found |= {(each, entry.cid): (entry.in_msgs, entry.in_bytes) for each, entry in page}
            if len(page) < _PAGE:
                return found
            offset += _PAGE

    async def _pages(self, query: dict[str, Any]) -> list[tuple[str, _Entry]]:
        """All entries of every node's answer to `query`, with the node's id."""
        found: list[tuple[str, _Entry]] = []
        offset = 0
        while True:
            wanted = {**query, "limit": _PAGE, "offset": offset}
            answers = await self._gather("$SYS.REQ.SERVER.PING.CONNZ", wanted)
            pages = [_entries(answer.data) for answer in answers]
            found += [entry for page in pages for entry in page]
            if not any(len(page) == _PAGE for page in pages):
                return found
            offset += _PAGE

    async def nodes(self) -> set[str]:
        """The ids of the nodes that answer."""
        answers = await self._gather("$SYS.REQ.SERVER.PING.IDZ", {})
        return {str(_json(each.data).get("id", "")) for each in answers} - {""}

    async def operators(self) -> dict[str, set[str]]:
        """The public operator keys whose account tokens each node accepts, by the node's name."""
        found: dict[str, set[str]] = {}
        for answer in await self._gather("$SYS.REQ.SERVER.PING.VARZ", {}):
            node = _read(answer.data, _Varz)
            operators = node.data.trusted_operators_claim
            found[node.server.name] = {key for each in operators for key in each.nats.signing_keys}
        return found

    async def look_up(
        self, places: list[_Place], *, is_strict: bool = True
    ) -> dict[_Place, Connection]:
        """Live connections among `places`.

        A node that does not answer raises Unreachable; if not `is_strict`, it has none.
        """
        turns = asyncio.Semaphore(_AT_ONCE)

        async def look(server: str, cid: int) -> list[tuple[str, _Entry]]:
            query = msgspec.json.encode({"cid": cid, "auth": True})
            async with turns:
                try:
                    answer = await self._link.request(
                        f"$SYS.REQ.SERVER.{server}.CONNZ", query, self._request_s
                    )
                except Unreachable:
                    if is_strict:
                        raise
                    return []
            return _entries(answer.data)

        found = await asyncio.gather(*(look(*place) for place in places))
        known = {
            (server, entry.cid): _connection(server, entry)
            for entries in found
            for server, entry in entries
        }
        self._known |= known
        return known

    async def kick(self, connection: Connection) -> None:
        payload = msgspec.json.encode({"cid": connection.cid})
        await self._link.request(
            f"$SYS.REQ.SERVER.{connection.server}.KICK", payload, self._request_s
        )

    async def reload(self) -> int:
        """Make every node read its files again; returns the number of nodes.

        Certificates and trusted authorities are replaced, and no connection is ended. Raises
        Refused (`store_unavailable`) with a node's own words if it cannot; the node goes on as
        before.
        """
        servers = await self.nodes()
        for server in servers:
            subject = f"$SYS.REQ.SERVER.{server}.RELOAD"
            body = _json((await self._link.request(subject, b"", self._request_s)).data)
            if "error" in body:
                detail = body["error"].get("description", "no reason given")
                raise Refused("store_unavailable", f"a broker was not reloaded: {detail}")
        log.info("broker_reloaded", nodes=len(servers))
        return len(servers)

    async def _gather(self, subject: str, query: dict[str, Any]) -> list[Msg]:
        answers: list[Msg] = []
        more = asyncio.Event()

        def take(msg: Msg) -> None:
            answers.append(msg)
            more.set()

        inbox, end = self._link.open_inbox(take)
        try:
            self._link.publish_nowait(subject, msgspec.json.encode(query), inbox)
            wait_s = self._request_s
            while True:
                more.clear()
                try:
                    await asyncio.wait_for(more.wait(), wait_s)
                except TimeoutError:
                    break
                wait_s = _GATHER_S
        finally:
            end()
        if not answers:
            raise Unreachable("no_answer", f"no broker node answered {subject}")
        return answers


def _json(data: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise Corrupt("store_unavailable", "the broker's answer is not JSON") from error
    return body if isinstance(body, dict) else {}


def _read(data: bytes, kind: type[A]) -> A:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise Corrupt("store_unavailable", "the broker's answer has an unknown form") from error


def _entries(data: bytes) -> list[tuple[str, _Entry]]:
    body = _read(data, _Connz)
    return [(body.server.id, entry) for entry in body.data.connections]


def _connection(server: str, entry: _Entry) -> Connection:
    shown, *chain = entry.tls_peer_certs or [_Shown()]
    return Connection(
        server,
        entry.cid,
        entry.authorized_user,
        f"{entry.ip}:{entry.port}",
        entry.jwt,
        shown.cert_sha256,
        shown.subject,
        chain[-1].cert_sha256 if chain else "",
    )
