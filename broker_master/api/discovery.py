"""The NATS service protocol: PING, INFO and STATS (ADR-32)."""

import secrets
from collections.abc import Callable, Mapping
from typing import Final

from broker_master import VERSION
from broker_master.api.door import Stats
from schemas import subjects
from schemas.moments import rfc3339
from schemas.verbs import VERBS, AnyVerb

NAME: Final = "mesh"
_DESCRIPTION: Final = "commands, agents and groups of one mesh"

Answer = Callable[[], dict[str, object]]


class Discovery:
    """One instance of the service, with an endpoint for each verb."""

    def __init__(
        self,
        mesh: str,
        started_at: float,
        stats: Mapping[str, Stats],
        verbs: Mapping[str, AnyVerb] = VERBS,
    ) -> None:
        self._mesh = mesh
        self._started = rfc3339(started_at)
        self._stats = stats
        self._verbs = verbs
        self._id = secrets.token_hex(8)

    def answers(self) -> dict[str, Answer]:
        """The handler of each subject of the protocol."""
        asked = {"PING": self.ping, "INFO": self.info, "STATS": self.statistics}
        return {
            f"$SRV.{verb}{tail}": answer
            for verb, answer in asked.items()
            for tail in ("", f".{NAME}", f".{NAME}.{self._id}")
        }

    def ping(self) -> dict[str, object]:
        return self._identity("ping")

    def info(self) -> dict[str, object]:
        metadata = {"content-type": "application/msgpack"}
        endpoints = [{**_endpoint(each), "metadata": metadata} for each in self._verbs.values()]
        return {**self._identity("info"), "description": _DESCRIPTION, "endpoints": endpoints}

    def statistics(self) -> dict[str, object]:
        endpoints = [
            {**_endpoint(each), **_counted(self._stats.get(name, Stats()))}
            for name, each in self._verbs.items()
        ]
        return {**self._identity("stats"), "started": self._started, "endpoints": endpoints}

    def _identity(self, kind: str) -> dict[str, object]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": NAME,
            "id": self._id,
            "version": VERSION,
            "metadata": {"mesh": self._mesh, "protocol": "v1"},
        }


def _endpoint(verb: AnyVerb) -> dict[str, object]:
    return {
        "name": f"{verb.noun}-{verb.verb}",
        "subject": subjects.api("*", verb.noun, verb.verb),
        "queue_group": "q",
    }


def _counted(stats: Stats) -> dict[str, object]:
    spent_ns = int(stats.spent_s * 1e9)
    return {
        "num_requests": stats.requests,
        "num_errors": stats.errors,
        "last_error": stats.last_error,
        "processing_time": spent_ns,
        "average_processing_time": spent_ns // max(1, stats.requests),
    }
