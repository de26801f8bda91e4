"""Keeps the profiles of this host: looks for changes, and tells the master."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from broker_agent.core.profile_book import Found, ProfileBook, message
from broker_agent.core.profiles import UsableProfile
from broker_agent.services.profile_files import ProfileFiles
from broker_agent.services.wire import Station
from schemas.faults import MeshError, Unreachable

# Longest time that the start of the agent waits for the first reading.
FIRST_S: Final = 3.0
# A reading that takes so long is logged, each time.
SLOW_S: Final = 60.0

log = structlog.get_logger(__name__)


class Profiles:
    """Profiles in use. looks: number of all looks; readings: of those that read all files.

    look_s: returns the seconds between two looks.
    """

    name = "profiles"

    def __init__(
        self, station: Station, files: ProfileFiles, *, look_s: Callable[[], float]
    ) -> None:
        self._wire = station.wire
        self._subject = station.address.profiles
        self._lease = station.lease
        self._fitness = station.fitness
        self._standing = station.standing
        self._files = files
        self._look_s = look_s
        self._wake = asyncio.Event()
        self._strays: list[str] = []
        self.book = ProfileBook()
        self.looks = 0
        self.readings = 0

    @property
    def digest(self) -> str:
        return self.book.digest

    @property
    def in_use(self) -> dict[str, str]:
        """Hash of each profile in use, by name."""
        return {each.name: each.profile.hash for each in self.book if each.profile}

    @property
    def problems(self) -> dict[str, str]:
        """Why files are not in use, by name."""
        return {each.name: each.problem for each in self.book if each.problem}

    @property
    def strays(self) -> list[str]:
        """Files in the folders that are no profiles, each with its cause."""
        return self._strays

    def find(self, name: str) -> UsableProfile:
        """Return a profile in use. Raises Refused: `profile_unknown` or `profile_problem`."""
        return self.book.find(name)

    def look_soon(self) -> None:
        """Read all files again now, whether they have changed or not."""
        self._wake.set()

    async def run(self, ready: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(self._look(again=True))
            # No longer: a plug-in or a file system that hangs holds up its profiles alone.
            await asyncio.wait({first}, timeout=FIRST_S)
            ready.set()
            await first
            await self._watch()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._look_s()):
                    await self._wake.wait()
            except TimeoutError:
                await self._look(again=False)
            else:
                self._wake.clear()
                await self._look(again=True)
                self._standing()

    async def _look(self, *, again: bool) -> None:
        found = await self._read(again=again)
        before, self.book = self.book, self.book.merge(found)
        self.looks += 1
        self.readings += again
        self._say(before)
        if self.book.digest != before.digest:
            self._fitness()

    async def _read(self, *, again: bool) -> list[Found]:
        """Read files in a thread of their own.

        A file system that hangs holds up neither the heartbeats nor the end of this process.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Found]] = loop.create_future()

        def settle(found: list[Found] | BaseException) -> None:
            if done.cancelled():
                return
            if isinstance(found, BaseException):
                done.set_exception(found)
            else:
                done.set_result(found)

        def read() -> None:
            try:
                found: list[Found] | BaseException = self._files.read(again=again)
            except BaseException as error:  # noqa: BLE001  (for the service that awaits it)
                found = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=read, name="profiles", daemon=True).start()
        while not done.done():
            await asyncio.wait({done}, timeout=SLOW_S)
            if not done.done():
                log.warning("profiles_read_slowly", folders=[*map(str, self._files.folders)])
        return done.result()

    def _say(self, before: ProfileBook) -> None:
        """Log what has changed."""
        known = {each.name: each for each in before}
        for each in self.book:
            old = known.pop(each.name, None)
            if each.problem and (old is None or old.problem != each.problem):
                log.error(
                    "profile_problem",
                    profile=each.name,
                    problem=each.problem,
                    in_use=each.profile.hash if each.profile else None,
                )
            elif each.profile and (old is None or old.profile != each.profile or old.problem):
                log.info(
                    "profile_in_use",
                    profile=each.name,
                    kind=each.profile.kind,
                    hash=each.profile.hash,
                    file=each.path,
                )
                for warning in each.checked.warnings if each.checked else ():
                    log.warning("profile_warning", profile=each.name, warning=warning)
        for name in known:
            log.info("profile_removed", profile=name)
        if self._files.strays != self._strays:
            self._strays = self._files.strays
            for stray in self._strays:
                log.warning("profile_file_not_used", file=stray)

    def tell(self) -> None:
        """Send all profiles to the master, which has asked for them."""
        try:
            self._wire.publish_nowait(self._subject, message(self.book, self._lease.incarnation))
        except Unreachable:
            return  # the next echo asks again
        except MeshError as error:
            log.error("profiles_not_told", error=error.message)  # noqa: TRY400  (its cause is known)
