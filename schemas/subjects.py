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
# Subject of the broker's message that a chunk is stored: its kind below an agent's `down`, and as
# the log stream's mapping of the five wildcards of LOG_ALL.
STORED: Final = "stored"
STORED_OF_LOG: Final = (
    f"{PREFIX}.down.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{STORED}"
    ".{{wildcard(3)}}.{{wildcard(4)}}.{{wildcard(5)}}"
)
# Header of a chunk, chosen by its sender; `stored` repeats it.
CHUNK_HEADER: Final = "Mesh-Chunk"
# Staged inputs of commands: client, input, number of the part. Only masters publish there.
INPUT_ALL: Final = f"{PREFIX}.input.*.*.*"
HISTORY_ALL: Final = f"{PREFIX}.history.*"
AUDIT_ALL: Final = f"{PREFIX}.audit.*"

# Upper case, so that it is the inbox of no agent and no client.
MASTER_INBOX: Final = "_INBOX_MASTER"

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
STREAMS: Final = (STDOUT, STDERR)


class Up(NamedTuple):
    """Parts of an agent's subject: its group, its name, `kind` and the rest."""

    group: str
    agent: str
    kind: str
    rest: tuple[str, ...]


class Api(NamedTuple):
    """Parts of a client's subject: its name, the noun and the verb."""

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
    """Subject of an agent's answer to a request: below its own prefix, with the master's token."""
    return f"{PREFIX}.up.{group}.{agent}.reply.{token}"


def log(group: str, agent: str, command: str, attempt: int | str, stream: str) -> str:
    return f"{PREFIX}.up.{group}.{agent}.log.{command}.{attempt}.{stream}"


def log_of(group: str, agent: str) -> str:
    """Wildcard over the subjects of an agent's output in the log stream."""
    return f"{PREFIX}.up.{group}.{agent}.log.>"


def stored_of(group: str, agent: str) -> str:
    """Wildcard over the broker's `stored` messages to an agent."""
    return f"{PREFIX}.down.{group}.{agent}.{STORED}.>"


def stored_of_attempt(group: str, agent: str, command: str, attempt: int) -> str:
    """Wildcard over the broker's `stored` messages about one attempt."""
    return f"{PREFIX}.down.{group}.{agent}.{STORED}.{command}.{attempt}.*"


def input_part(client: str, input: str, part: int | str) -> str:
    """Subject of a part of a staged input; `part` may be `*`."""
    return f"{PREFIX}.input.{client}.{input}.{part}"


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
    """The inbox prefix of an agent or a client; agents and clients share a name space."""
    return f"_INBOX_{name}"


def enrol_inbox_prefix(agent: str) -> str:
    """The inbox prefix of a token's bearer; upper case, so that no agent and no client has it."""
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
    """Return the agent that a token's bearer enrols, or None."""
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
    """Whether `text` is the only form of its number, so that a number has one subject."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return False
    return text == "0" or text[0] != "0"


@lru_cache(maxsize=4096)
def _are_names(group: str, agent: str) -> bool:
    """Whether both are names; cached, as few senders send most of the messages."""
    return is_name(group) and is_name(agent)
