"""The golden files: bytes of every message type, written once and kept.

    python -m tools.golden --write

writes the files of the present versions. A file of an older version is never changed: sent and
stored bytes stay readable. It is no part of `make docs`: a file that differs is a change of the
wire, which must be intended. Raise a type's number in VERSIONS when its bytes change after a
release; the old file then stays, and only has to be decoded.
"""

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.codec import encode
from tests.unit.schemas.catalogue import KINDS, Kind
from tests.unit.schemas.samples import full, least

FOLDER: Final = Path(__file__).resolve().parents[1] / "tests" / "data" / "golden"
VERSIONS: Final[dict[str, int]] = {
    "api.AgentRecord": 2,
    "api.ClientRecord": 2,
    "api.TrustAnswer": 2,
    "api.TrustQuery": 2,
    "liveness.Beat": 2,
    "liveness.Details": 2,
    "api.ClientsAnswer": 2,
    "api.AgentList": 2,
    "api.AgentsAnswer": 2,
    "api.CommandList": 2,
    "api.CommandPage": 2,
    "api.GroupRecord": 2,
    "api.GroupsAnswer": 2,
    "api.LogsAnswer": 2,
    "api.LogsRequest": 2,
    "api.RotateAnswer": 2,
    "facts.CommandRecord": 2,
    "facts.HistoryRecord": 2,
    "fanouts.FanoutEntry": 2,
    "fanouts.FanoutRecord": 2,
    "fanouts.FanoutSubmit": 2,
    "fanouts.FanoutsAnswer": 2,
    "audit.AuditEntry": 2,
    "liveness.Hello": 2,
    "liveness.Welcome": 2,
    "api.ClientCreate": 2,
    "enrol.EnrolRequest": 2,
    "registry.AgentEntry": 2,
    "registry.CertificateEntry": 2,
    "registry.ClientEntry": 2,
    "api.SubmitRequest": 2,
    "facts.Accepted": 2,
    "facts.AttemptRecord": 2,
    "facts.Outcome": 2,
    "liveness.Echo": 2,
    "work.AttemptReport": 2,
    "work.Report": 2,
    "work.Run": 2,
    "actions.ProcessArgs": 2,
}


class Golden(NamedTuple):
    """A file of a present version, and its message."""

    file: str
    kind: Kind
    message: Any


def goldens() -> list[Golden]:
    found = []
    for name, kind in KINDS.items():
        stem = f"{name}.v{VERSIONS.get(name, 1)}"
        found.append(Golden(f"{stem}.msgpack", kind, full(kind)))
        found.append(Golden(f"{stem}.min.msgpack", kind, least(kind)))
    return found


def main(arguments: list[str]) -> int:
    if arguments != ["--write"]:
        sys.stderr.write("say --write to replace the golden files of the present versions\n")
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    for golden in goldens():
        (FOLDER / golden.file).write_bytes(encode(golden.message))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
