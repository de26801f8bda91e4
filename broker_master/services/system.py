"""The master's second link, as the user that may see and cut connections and update the account."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from broker_client.runtime.frames import Msg
from broker_client.runtime.link import Link
from broker_client.runtime.nkeys import from_base64url
from schemas.faults import Corrupt, Refused, Unreachable

log = structlog.get_logger()

# A cluster's nodes answer one by one; this long after the last answer there are no more.
_GATHER_S = 0.15
_PAGE = 1024
_JWT_PARTS = 3


class Connection(msgspec.Struct, frozen=True):
    """One live connection. user: its public broker key.

    name: in its token. issuer: the public key that has signed the token. certificate: SHA-256 of
    what it has shown, lower-case hex; subject: whom that names; authority: SHA-256 of that of who
    has issued it. Empty is what the broker does not tell.
    """

    server: str
    cid: int
    user: str
    address: str
    name: str = ""
    issuer: str = ""
    certificate: str = ""
    subject: str = ""
    authority: str = ""


class BrokerSystem:
    def __init__(self, link: Link, *, account: str, request_s: float) -> None:
        self._link = link
        self._account = account
        self._request_s = request_s

    async def watch(
        self, on_change: Callable[[str, dict[str, Any]], None], on_back: Callable[[], None]
    ) -> None:
        """Hear of every connection of the account that is made (`CONNECT`) or ends (`DISCONNECT`).

        on_change: gets which, and the broker's advisory. on_back: the link was away for a moment,
        and what happened meanwhile was not told.
        """

        def take(msg: Msg) -> None:
            with contextlib.suppress(Corrupt):
                on_change(msg.subject.rpartition(".")[2], _json(msg.data))

        for kind in ("CONNECT", "DISCONNECT"):
            self._link.subscribe(f"$SYS.ACCOUNT.{self._account}.{kind}", take)
        await self._link.flush()
        self._link.on_connected(on_back)

    async def update_account(self, token: str) -> None:
        """Publish the account's token; the broker then drops whom it no longer admits.

        Raises Unreachable, or Refused (`store_unavailable`) if the broker does not take it.
        """
        answer = await self._link.request("$SYS.REQ.CLAIMS.UPDATE", token.encode(), self._request_s)
        body = _json(answer.data)
        code = body.get("data", {}).get("code")
        if code != 200:
            detail = body.get("error", {}).get("description", "no reason given")
            raise Refused("store_unavailable", f"the broker refused the account: {detail}")

    async def connections(self) -> list[Connection]:
        """Everybody who is connected to the mesh's account, on every node."""
        found: list[Connection] = []
        offset = 0
        while True:
            query = {"auth": True, "acc": self._account, "limit": _PAGE, "offset": offset}
            answers = await self._gather("$SYS.REQ.SERVER.PING.CONNZ", query)
            pages = [_connections(_json(answer.data)) for answer in answers]
            found += [connection for page in pages for connection in page]
            if not any(len(page) == _PAGE for page in pages):
                return found
            offset += _PAGE

    async def kick(self, connection: Connection) -> None:
        payload = msgspec.json.encode({"cid": connection.cid})
        await self._link.request(
            f"$SYS.REQ.SERVER.{connection.server}.KICK", payload, self._request_s
        )

    async def reload(self) -> int:
        """Have every node read its files again; returns how many there are.

        Certificates and trusted authorities are taken over, and nobody is cut off. Raises Refused
        (`store_unavailable`) with a node's own words if it cannot; it goes on as it was then.
        """
        answers = await self._gather("$SYS.REQ.SERVER.PING.IDZ", {})
        servers = {str(_json(each.data).get("id", "")) for each in answers}
        for server in servers - {""}:
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


def _connections(body: dict[str, Any]) -> list[Connection]:
    server = body.get("server", {}).get("id", "")
    return [_connection(server, entry) for entry in body.get("data", {}).get("connections", [])]


def _connection(server: str, entry: dict[str, Any]) -> Connection:
    claims = _claims(entry.get("jwt", ""))
    shown, *chain = entry.get("tls_peer_certs") or [{}]
    return Connection(
        server,
        entry["cid"],
        entry.get("authorized_user", ""),
        f"{entry['ip']}:{entry['port']}",
        str(claims.get("name", "")),
        str(claims.get("iss", "")),
        shown.get("cert_sha256", ""),
        shown.get("subject", ""),
        chain[-1].get("cert_sha256", "") if chain else "",
    )


def _claims(token: str) -> dict[str, Any]:
    """Of a token that the broker has admitted; whether it is signed has been seen to."""
    parts = token.split(".")
    if len(parts) != _JWT_PARTS:
        return {}
    try:
        return _json(from_base64url(parts[1]))
    except (ValueError, Corrupt):
        return {}
