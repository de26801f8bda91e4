"""A session with an SFTP server, driven one call at a time."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

import asyncssh

from broker_agent.connectors.api import Call, CallFailed, Out, Result, Secrets
from broker_agent.connectors.sftp.connector import SftpProfile
from broker_agent.connectors.sftp.work import Folder, Work

T = TypeVar("T")
_CLOSE_S: Final = 2.0
# Codes of errors that say what is wrong with a path.
_PATHS: Final = {
    asyncssh.FX_NO_SUCH_FILE: "path_unknown",
    asyncssh.FX_NO_SUCH_PATH: "path_unknown",
    asyncssh.FX_FILE_ALREADY_EXISTS: "path_exists",
    asyncssh.FX_PERMISSION_DENIED: "path_refused",
    asyncssh.FX_FAILURE: "target_refused",
}
_LOST: Final = (asyncssh.ConnectionLost, asyncssh.DisconnectError, OSError, asyncssh.SFTPEOFError)


class SftpSession:
    """One connection. Raises CallFailed at construction, with effect none."""

    server_id = ""

    def __init__(self, profile: SftpProfile, secrets: Secrets) -> None:
        self._profile = profile
        self._loop = asyncio.new_event_loop()
        self._running: asyncio.Task[Any] | None = None
        self._is_broken = False
        try:
            self._connection, self._client = self._wait(
                self._connect(secrets), profile.connect_s, "connect"
            )
        except BaseException:
            self._loop.close()
            raise

    @property
    def is_broken(self) -> bool:
        return self._is_broken

    def call(self, action: str, args: Any, out: Out, call: Call) -> Result:  # noqa: ANN401
        folder = Folder(self._client, self._profile.base)
        work = Work(folder, self._profile, out, call.key)
        left = call.deadline - time.monotonic()
        return self._wait(work.do(action, args), left, args.path, lambda: work.effect)

    def _wait(
        self,
        work: Coroutine[Any, Any, T],
        within_s: float,
        what: str,
        effect: Callable[[], Any] = lambda: "none",
    ) -> T:
        """Run it to its end, and tell its errors as ends of the call."""
        self._running = self._loop.create_task(work)
        try:
            bounded = asyncio.wait_for(self._running, max(within_s, 0.001))
            return cast("T", self._loop.run_until_complete(bounded))
        except asyncssh.SFTPError as error:
            raise self._told(error, what, effect()) from error
        except asyncio.CancelledError as error:
            self._is_broken = True
            raise CallFailed("target_lost", "it was cancelled", effect=effect()) from error
        except TimeoutError as error:
            self._is_broken = True
            code = "target_unreachable" if what == "connect" else "target_timeout"
            raise CallFailed(code, "no answer in time", effect=effect()) from error
        except _LOST as error:
            self._is_broken = True
            raise CallFailed("target_lost", f"{error}", effect=effect()) from error
        finally:
            self._running = None

    def _told(self, error: asyncssh.SFTPError, what: str, effect: Any) -> CallFailed:  # noqa: ANN401
        code = _PATHS.get(error.code)
        if code is None or isinstance(error, _LOST):
            self._is_broken = True
            code = "target_lost"
        return CallFailed(code, f"{what[:200]!r}: {error.reason}", effect=effect)

    # -- the connection

    async def _connect(
        self, secrets: Secrets
    ) -> tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]:
        profile = self._profile
        try:
            connection = await asyncssh.connect(
                profile.host,
                profile.port,
                username=profile.user,
                password=secrets.get("password"),
                client_keys=_keys(secrets),
                known_hosts=_known_hosts(profile),
                agent_path=None,
                config=None,
                gss_host=None,
                x509_trusted_certs=None,
                x509_trusted_cert_paths=[],
                keepalive_interval=15,
                request_pty=False,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            why = f"the key of {profile.host} is not the known one"
            raise CallFailed("tls_failed", why, effect="none") from error
        except asyncssh.PermissionDenied as error:
            raise CallFailed("login_refused", error.reason, effect="none") from error
        except (OSError, asyncssh.Error) as error:
            why = f"{profile.host} port {profile.port}: {error}"
            raise CallFailed("target_unreachable", why, effect="none") from error
        try:
            return connection, await connection.start_sftp_client()
        except BaseException as error:
            # Else each try would leave a connection behind.
            connection.abort()
            await asyncio.wait_for(connection.wait_closed(), _CLOSE_S)
            if not isinstance(error, asyncssh.Error):
                raise
            why = f"{profile.host}: it starts no SFTP: {error.reason}"
            raise CallFailed("target_unreachable", why, effect="none") from error

    def test(self, step: Callable[[str], None]) -> str:
        step("login")  # the driver connects and logs in at one go

        async def look() -> str:
            await Folder(self._client, self._profile.base).check()
            return str(self._connection.get_extra_info("server_version", "SFTP"))

        server = self._wait(look(), self._profile.connect_s, self._profile.base)
        step("query")
        return server

    def cancel(self) -> None:
        with suppress(RuntimeError):  # closed
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._is_broken = True
        if self._running is not None:
            self._running.cancel()

    def close(self) -> None:
        async def end() -> None:
            self._client.exit()
            self._connection.close()
            await self._connection.wait_closed()

        with suppress(Exception):
            self._loop.run_until_complete(asyncio.wait_for(end(), _CLOSE_S))
        self._loop.close()


def _keys(secrets: Secrets) -> list[asyncssh.SSHKey] | None:
    text = secrets.get("key")
    if text is None:
        return None
    try:
        return [asyncssh.import_private_key(text, secrets.get("passphrase"))]
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise CallFailed("secret_unreadable", "key: no private key", effect="none") from error


def _known_hosts(profile: SftpProfile) -> Any:  # noqa: ANN401  (as asyncssh takes them)
    try:
        if profile.host_key is not None:
            return ([asyncssh.import_public_key(profile.host_key)], [], [])
        return asyncssh.read_known_hosts(profile.known_hosts or "")
    except (OSError, ValueError, asyncssh.KeyImportError) as error:
        raise CallFailed("tls_failed", f"the known keys: {error}", effect="none") from error
