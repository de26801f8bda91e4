"""A scrape: the plane's numbers as text, in slices, at most once a second.

Only agents and open commands are counted here; all else was counted when it happened.
"""

import asyncio
import platform
from collections.abc import Iterator
from gzip import compress
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest

from broker_client.runtime.exposition import Page
from broker_master import VERSION
from broker_master.metrics import catalogue as c
from broker_master.metrics.connections import ConnectionSeries
from broker_master.metrics.fleet import Fleet
from broker_master.metrics.groups import GroupSeries
from broker_master.metrics.system import MasterSeries, Surroundings
from broker_master.metrics.text import family
from broker_master.plane import Plane

KEPT_S: Final = 1.0
# A slice of a scrape may hold the loop for about this long.
SLICE_S: Final = 0.004
# The quickest: the next levels save a few percent.
PACKING: Final = 1


class Scraper:
    """`page` returns the text; concurrent scrapers share one rendering."""

    def __init__(self, plane: Plane, around: Surroundings) -> None:
        self._plane = plane
        self._fleet = Fleet(plane)
        self._groups = GroupSeries(plane, self._fleet)
        self._connections = ConnectionSeries(plane)
        self._system = MasterSeries(plane, around)
        self._own = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._own)
        GCCollector(registry=self._own)
        # Guards the three below: one scraper renders, the others wait for it.
        self._rendering = asyncio.Lock()
        self._page = b""
        self._packed = b""
        self._made_s = float("-inf")

    def look(self) -> None:
        """Notice changes of status; a scrape does so too, but may be rare."""
        self._fleet.look()

    def forget(self) -> None:
        """Render again at the next call, however soon that is."""
        self._made_s = float("-inf")

    async def page(self, gzip: bool = False) -> Page:  # noqa: FBT001, FBT002  a header's answer
        """Return the page; compressed, that of a large fleet is a tenth as long."""
        async with self._rendering:
            if self._plane.clock.elapsed() - self._made_s >= KEPT_S:
                await self._render()
            if not gzip:
                return Page(self._page)
            if not self._packed:
                # In a thread: compressing a megabyte takes milliseconds, and needs none of our
                # state.
                self._packed = await asyncio.to_thread(compress, self._page, PACKING)
            return Page(self._packed, "gzip")

    async def _render(self) -> None:
        clock = self._plane.clock
        parts = []
        began_s = clock.elapsed()
        for part in self._parts():
            parts.append(part)
            if clock.elapsed() - began_s > SLICE_S:
                # Commands go first.
                await asyncio.sleep(0)
                began_s = clock.elapsed()
        self._page, self._packed = "".join(parts).encode(), b""
        self._made_s = clock.elapsed()

    def _parts(self) -> Iterator[str]:
        self._fleet.look()
        build = {"version": VERSION, "python": platform.python_version(), "role": "master"}
        yield family(c.BUILD, [(build, 1)])
        if self._plane.settings.per_agent_metrics:
            yield from self._fleet.families()
        yield from self._groups.parts()
        yield from self._connections.parts()
        yield from self._system.parts()
        yield generate_latest(self._own).decode()
