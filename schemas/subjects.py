"""Every subject of the protocol, built and taken apart in one place.

Builders trust their arguments: names and ids are checked by `schemas.ids` where they enter a
process. Parsers trust nothing and return None for what is not a subject of ours.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from schemas.ids import is_command_id, is_name

PREFIX: Final = "mesh.v1"
API_ALL: Final = f"{PREFIX}.api.*.*.*"
ENROL_ALL: Final = f"{PREFIX}.enrol.*"
FACT_ALL: Final = f"{PREFIX}.fact.*.*.*"
LOG_ALL: Final = f"{PREFIX}.up.*.*.log.*.*.*"
# Where the broker says that it has stored a chunk: the kind below an agent's `down`, and the same
# as the log stream is given it, made of the five wild cards of LOG_ALL.
STORED: Final = "stored"
STORED_OF_LOG: Final = (
    f"{PREFIX}.down.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{STORED}"
    ".{{wildcard(3)}}.{{wildcard(4)}}.{{wildcard(5)}}"
)
# A header of a chunk, of its sender's choice; `stored` repeats it.
CHUNK_HEADER: Final = "Mesh-Chunk"
HISTORY_ALL: Final = f"{PREFIX}.history.*"
AUDIT_ALL: Final = f"{PREFIX}.audit.*"

# Upper case, so that no agent and no client can have it as its own.
MASTER_INBOX: Final = "_INBOX_MASTER"

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
STREAMS: Final = (STDOUT, STDERR)


class Up(NamedTuple):
    """What an agent's subject says: who speaks, and about what (`kind`, then the rest)."""

    group: str
    agent: str
    kind: str
    rest: tuple[str, ...]


class Api(NamedTuple):
    """What a client's subject says: who asks, and for which verb of which noun."""

    client: str
    noun: str
    verb: str


class Fact(NamedTuple):
    command: str
    attempt: int
    kind: str


def up(group: str, agent: str, kind: str) -> str:
    return f"{PREFIX}.up.{group}.{agent}.{kind}"


def down(group: str, agent: str, kind: str) -> str:
    return f"{PREFIX}.down.{group}.{agent}.{kind}"


def down_all(group: str, agent: str) -> str:
    return f"{PREFIX}.down.{group}.{agent}.>"


def reply(group: str, agent: str, token: str) -> str:
    """Where an agent answers a request: below its own prefix, with the master's token."""
    return f"{PREFIX}.up.{group}.{agent}.reply.{token}"


def log(group: str, agent: str, command: str, attempt: int | str, stream: str) -> str:
    return f"{PREFIX}.up.{group}.{agent}.log.{command}.{attempt}.{stream}"


def log_of(group: str, agent: str) -> str:
    """All that an agent may print into the log stream."""
    return f"{PREFIX}.up.{group}.{agent}.log.>"


def stored_of(group: str, agent: str) -> str:
    """All that the broker says of it."""
    return f"{PREFIX}.down.{group}.{agent}.{STORED}.>"


def stored_of_attempt(group: str, agent: str, command: str, attempt: int) -> str:
    """What the broker says of the output of one attempt."""
    return f"{PREFIX}.down.{group}.{agent}.{STORED}.{command}.{attempt}.*"


def fact(command: str, attempt: int, kind: str) -> str:
    return f"{PREFIX}.fact.{command}.{attempt}.{kind}"


def history(group: str) -> str:
    return f"{PREFIX}.history.{group}"


def audit(noun: str) -> str:
    return f"{PREFIX}.audit.{noun}"


def api(client: str, noun: str, verb: str) -> str:
    return f"{PREFIX}.api.{client}.{noun}.{verb}"


def result(client: str, command: str) -> str:
    return f"{PREFIX}.result.{client}.{command}"


def enrol(agent: str) -> str:
    return f"{PREFIX}.enrol.{agent}"


def inbox_prefix(name: str) -> str:
    """The inbox prefix of an agent or a client; agents and clients share one space of names."""
    return f"_INBOX_{name}"


def enrol_inbox_prefix(agent: str) -> str:
    """The inbox of a token's bearer; upper case, so that it is no agent's and no client's."""
    return f"_INBOX_ENROL_{agent}"


def parse_up(subject: str) -> Up | None:
    parts = subject.split(".")
    if len(parts) < 6 or parts[:3] != ["mesh", "v1", "up"]:
        return None
    group, agent, kind = parts[3:6]
    if not _are_names(group, agent):
        return None
    return Up(group, agent, kind, tuple(parts[6:]))


@lru_cache(maxsize=4096)
def parse_api(subject: str) -> Api | None:
    parts = subject.split(".")
    if len(parts) != 6 or parts[:3] != ["mesh", "v1", "api"] or not is_name(parts[3]):
        return None
    return Api(parts[3], parts[4], parts[5])


def parse_enrol(subject: str) -> str | None:
    """The agent that a token's bearer asks for, or None."""
    parts = subject.split(".")
    if len(parts) != 4 or parts[:3] != ["mesh", "v1", "enrol"] or not is_name(parts[3]):
        return None
    return parts[3]


def parse_fact(subject: str) -> Fact | None:
    parts = subject.split(".")
    if len(parts) != 6 or parts[:3] != ["mesh", "v1", "fact"]:
        return None
    if not is_command_id(parts[3]) or not _is_number(parts[4]):
        return None
    return Fact(parts[3], int(parts[4]), parts[5])


def _is_number(text: str) -> bool:
    """Whether `text` is how a builder above writes a number: one number has one subject."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return False
    return text == "0" or text[0] != "0"


@lru_cache(maxsize=4096)
def _are_names(group: str, agent: str) -> bool:
    """Remembered, because the same few speak all the time."""
    return is_name(group) and is_name(agent)
