"""Metrics of the agent, for a Prometheus on the same host; off unless a port is set.

All names begin with `mesh_local_`: the master has metrics of agents too, and sums must not count
twice.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from broker_agent.services.intake import Intake
from broker_agent.services.reporter import Reporter
from broker_agent.services.wire import AgentLink, Station
from broker_client.runtime.exposition import ExpositionServer, Page, header, labels, number

LOOPBACK: Final = "127.0.0.1"


def local_endpoint(port: int, metrics: "LocalMetrics") -> ExpositionServer:
    """Make the endpoint, on the loopback address alone."""
    return ExpositionServer(LOOPBACK, port, metrics.page)


class LocalMetrics:
    """Metrics of one agent. not_after: returns the end of its certificate, in Unix seconds.

    missed: returns the number of tasks without the control group intended for them.
    """

    def __init__(
        self,
        station: Station,
        link: AgentLink,
        intake: Intake,
        reporter: Reporter,
        *,
        version: str,
        not_after: Callable[[], float],
        missed: Callable[[], int],
    ) -> None:
        self._station = station
        self._link = link
        self._intake = intake
        self._reporter = reporter
        self._missed = missed
        self._version = version
        self._not_after = not_after
        self._started_at = station.clock.now()

    async def page(self, _gzip: bool) -> Page:  # noqa: FBT001  few lines: never packed
        return Page("".join(self._families()).encode())

    def _families(self) -> Iterator[str]:
        station, link, intake = self._station, self._link, self._intake
        lease, book = station.lease, station.book
        build = {
            "agent": station.address.agent,
            "group": station.address.group,
            "version": self._version,
        }
        now = station.clock.elapsed()
        yield _one("build_info", "gauge", "1; who runs here", 1, build)
        yield _one("start_time_seconds", "gauge", "When this process started", self._started_at)
        yield _one("broker_up", "gauge", "1 while the broker is connected", int(link.is_connected))
        yield _one("broker_reconnects_total", "counter", "Later connections", link.reconnects)
        age_s = lease.age_s(now)
        yield _one("lease_age_seconds", "gauge", "Since the newest echoed heartbeat", age_s)
        yield _one("reconciled", "gauge", "1 while work may be taken", int(lease.is_linked))
        yield _one("heartbeat_rtt_seconds", "gauge", "From a heartbeat to its echo", lease.rtt_s)
        yield _one("tasks_running", "gauge", "Tasks under way", book.running)
        yield _one("task_slots", "gauge", "Tasks it takes at once", book.slots)
        meaning = "Tasks that run without the control group that they were to have"
        yield _one("tasks_without_cell_total", "counter", meaning, self._missed())
        pending = self._reporter.pending_bytes
        yield _one("log_buffer_bytes", "gauge", "Reports not yet stored by the master", pending)
        ends = self._not_after()
        name = "certificate_not_after_timestamp_seconds"
        yield _one(name, "gauge", "When the certificate in use ends", ends)
        answers = {
            "accepted": intake.accepted,
            "duplicate": intake.duplicates,
            "rejected": intake.rejected,
        }
        full = "mesh_local_run_requests_total"
        yield header(full, "counter", "Run requests by how they were answered") + "".join(
            f"{full}{labels({'answer': answer})} {count}\n" for answer, count in answers.items()
        )
        full = "mesh_local_process_cpu_seconds_total"
        yield header(full, "counter", "Processor time of the agent") + (
            f"{full} {number(round(time.process_time(), 3))}\n"
        )


def _one(
    name: str, kind: str, meaning: str, value: float, values: dict[str, str] | None = None
) -> str:
    full = f"mesh_local_{name}"
    return header(full, kind, meaning) + f"{full}{labels(values or {})} {number(value)}\n"
