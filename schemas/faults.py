"""The faults of the mesh: code, number, retry policy, exit code and advice of each.

One table serves the wire (service error headers and body), the command line (exit codes), logs and
metric labels, so that a fault has the same name everywhere.
"""

from typing import Final, Literal, Self

import msgspec

Retry = Literal["never", "later", "elsewhere"]
Effect = Literal["none", "unknown", "done"]


class FaultKind(msgspec.Struct, frozen=True):
    """Properties shared by all faults with one code.

    number: the HTTP-like status used in `Nats-Service-Error-Code`.
    exit_code: of the command line.
    advice: what to do, one sentence for a person.
    """

    number: int
    retry: Retry
    exit_code: int
    advice: str


_LIST_GROUPS = "see `mesh group list`, or create it with `mesh group create NAME`"
_LIST_AGENTS = "see `mesh agent list`"
_NAME_RULE = "use 1 to 63 of a-z, 0-9 and '-', and begin with a letter or a digit"

FAULTS: Final[dict[str, FaultKind]] = {
    # the request itself
    "malformed": FaultKind(400, "never", 2, "send a msgpack map as docs/protocol.md describes"),
    "field_invalid": FaultKind(400, "never", 2, "correct the field that the message names"),
    "filter_invalid": FaultKind(400, "never", 2, "correct the word that the message names"),
    "filter_unsupported": FaultKind(501, "never", 2, "upgrade the master, or leave the filter out"),
    "body_not_kept": FaultKind(410, "never", 6, "submit it again as it was submitted first"),
    "argument_unknown": FaultKind(400, "never", 2, "remove the argument or correct its name"),
    "name_invalid": FaultKind(400, "never", 2, _NAME_RULE),
    "id_invalid": FaultKind(400, "never", 2, "use 1 to 64 of A-Z, a-z, 0-9, '_' and '-'"),
    "id_reserved": FaultKind(
        400, "never", 2, "choose an id that does not begin with two underscores"
    ),
    "too_large": FaultKind(413, "never", 2, "send less, or pass a file on the host by its path"),
    "input_unsupported": FaultKind(
        501, "never", 6, "upgrade the agent, or let the program read a file of its host"
    ),
    "input_missing": FaultKind(410, "never", 6, "submit it again with its input"),
    "too_deep": FaultKind(400, "never", 2, "nest at most 16 levels"),
    "action_unknown": FaultKind(400, "never", 2, "use one of the actions the message names"),
    "verb_unknown": FaultKind(404, "never", 2, "see docs/protocol.md for the verbs"),
    "deadline_passed": FaultKind(410, "never", 4, "submit it again with a new id"),
    # what the request names
    "group_unknown": FaultKind(404, "never", 3, _LIST_GROUPS),
    "group_exists": FaultKind(409, "never", 6, "choose another name, or use the group as it is"),
    "group_not_empty": FaultKind(409, "never", 6, "delete or move its agents first"),
    "group_empty": FaultKind(
        409, "later", 6, "enrol an agent with `mesh agent create NAME --group GROUP`"
    ),
    "group_inactive": FaultKind(
        409,
        "later",
        6,
        "see `mesh group show NAME`, or submit with `on_inactive: queue`",
    ),
    "tags_unmatched": FaultKind(
        409, "later", 6, "see `mesh agent list`, or tag one: `mesh agent set NAME --tag K=V`"
    ),
    "agent_unknown": FaultKind(404, "never", 3, _LIST_AGENTS),
    "agent_exists": FaultKind(
        409, "never", 6, "choose another name, or see `mesh agent show NAME`"
    ),
    "agent_leaving": FaultKind(
        409, "later", 75, "wait until its tasks are over: `mesh agent show NAME` says when"
    ),
    "agent_revoked": FaultKind(409, "never", 6, "give the agent a new token and set it up again"),
    "agent_silent": FaultKind(409, "later", 6, "see `mesh agent show NAME` for why it is silent"),
    "agent_disabled": FaultKind(409, "later", 6, "enable it with `mesh agent enable NAME`"),
    "client_exists": FaultKind(409, "never", 6, "choose another name"),
    "client_unknown": FaultKind(404, "never", 3, "see `mesh client list`"),
    "name_taken": FaultKind(409, "never", 6, "choose a name that no agent or client has"),
    "command_unknown": FaultKind(404, "never", 3, "see `mesh command list`"),
    "fanout_unknown": FaultKind(404, "never", 3, "see `mesh fanout list`"),
    "attempt_unknown": FaultKind(404, "never", 3, "see `mesh command show ID` for its attempts"),
    "id_conflict": FaultKind(
        409, "never", 6, "this id was used for another command: choose a new one"
    ),
    "step_refused": FaultKind(
        409, "never", 6, "see `mesh ca show` for the step that is due, and the members to wait for"
    ),
    "not_undecided": FaultKind(
        409, "never", 6, "it waits for no decision: see `mesh command show ID`"
    ),
    "command_open": FaultKind(409, "later", 6, "wait until it has ended, or cancel it"),
    "nothing_to_retry": FaultKind(409, "never", 6, "see `mesh fanout show ID`"),
    "command_ended": FaultKind(409, "never", 6, "it has ended: see `mesh command show ID`"),
    # connections
    "connection_unknown": FaultKind(404, "never", 3, "see `mesh connection list`"),
    "connection_exists": FaultKind(
        409, "never", 6, "choose another name, or see `mesh connection show NAME`"
    ),
    "connection_disabled": FaultKind(
        409, "later", 6, "enable it with `mesh connection enable NAME`"
    ),
    "connection_busy": FaultKind(
        409,
        "later",
        6,
        "disable it, and wait for its commands: `mesh command list connection:NAME`",
    ),
    "connection_needed": FaultKind(
        400, "never", 2, "name the connection: `mesh do CONNECTION ACTION`"
    ),
    "kind_unknown": FaultKind(400, "never", 2, "use one of the kinds that the message names"),
    "action_refused": FaultKind(
        403, "never", 6, "see `mesh connection show NAME` for the actions it allows"
    ),
    "profile_unknown": FaultKind(
        404, "elsewhere", 6, "put it into profiles.d on the host: `broker-agent profile check`"
    ),
    "profile_problem": FaultKind(
        409, "elsewhere", 6, "correct the file that the message names: `broker-agent profile check`"
    ),
    "connector_missing": FaultKind(
        500, "elsewhere", 78, "install the extra that the message names on the agent's host"
    ),
    "secret_unreadable": FaultKind(
        500, "elsewhere", 78, "correct the reference, or what it refers to, on the agent's host"
    ),
    "target_unreachable": FaultKind(
        502, "later", 7, "see that the server runs and is reached: `mesh connection test NAME`"
    ),
    "login_refused": FaultKind(
        502, "later", 77, "correct user and secret of the profile: `mesh connection test NAME`"
    ),
    "tls_failed": FaultKind(
        502, "never", 77, "correct `tls` and `ca` of the profile: `mesh connection test NAME`"
    ),
    "target_timeout": FaultKind(504, "later", 4, "raise timeout_s, or see why the server is slow"),
    "target_refused": FaultKind(502, "never", 6, "correct the call as the server's words say"),
    "target_lost": FaultKind(
        502, "later", 7, "the connection broke in mid-call: see at the server what it has done"
    ),
    "statement_refused": FaultKind(
        403, "never", 6, "send one statement that the profile allows, with parameters for values"
    ),
    "statement_unknown": FaultKind(404, "never", 3, "see `broker-agent profile list`"),
    "parameter_invalid": FaultKind(400, "never", 2, "correct the parameter that the message names"),
    "address_refused": FaultKind(
        403, "never", 6, "the host's profile decides what may be reached: base_url, allow, networks"
    ),
    "path_refused": FaultKind(
        403, "never", 6, "name a path below the base of the profile, without links"
    ),
    "path_unknown": FaultKind(404, "never", 3, "see `file.list`"),
    "path_exists": FaultKind(409, "never", 6, 'choose another path, or say exists = "replace"'),
    "script_unknown": FaultKind(404, "never", 3, "see `broker-agent profile list`"),
    "result_too_large": FaultKind(
        413, "never", 6, "ask for less, or raise output_bytes: `mesh connection set NAME`"
    ),
    "worker_lost": FaultKind(
        500, "later", 75, "the worker process of the call ended: see the agent's log"
    ),
    # the caller
    "forbidden": FaultKind(403, "never", 6, "ask an admin for a role or group that may do this"),
    "reply_forbidden": FaultKind(403, "never", 6, "use an inbox below _INBOX_<your name>"),
    "superseded": FaultKind(
        409, "never", 77, "two processes run as one agent: end one, or set it up again"
    ),
    "client_disabled": FaultKind(403, "never", 77, "ask an admin for new credentials"),
    "token_invalid": FaultKind(403, "never", 77, "ask for a new token: `mesh agent token NAME`"),
    "token_used": FaultKind(409, "never", 77, "a token works once: `mesh agent token NAME`"),
    "token_expired": FaultKind(410, "never", 77, "ask for a new token: `mesh agent token NAME`"),
    "request_invalid": FaultKind(
        400, "never", 77, "run `broker-agent setup` again with a new token"
    ),
    "renewal_refused": FaultKind(
        403, "later", 77, "see `mesh agent show NAME`; `mesh agent token NAME` sets it up again"
    ),
    "renewal_failed": FaultKind(
        503, "later", 75, "what was in use stays in use, and it is tried again by itself"
    ),
    "certificate_expired": FaultKind(
        403, "never", 77, "`mesh agent token NAME`, then `broker-agent setup`: all else is kept"
    ),
    "connection_unproved": FaultKind(
        503, "later", 75, "try again; if it lasts, see `mesh audit list --result alarm`"
    ),
    "rate_limited": FaultKind(429, "later", 75, "wait a minute and try again"),
    # limits and states of the mesh
    "queue_full": FaultKind(429, "later", 75, "wait until commands have ended, or raise the limit"),
    "wait_timeout": FaultKind(408, "later", 4, "ask again: the command goes on"),
    "no_answer": FaultKind(504, "later", 4, "ask again; a change may have been done: look before"),
    "master_starting": FaultKind(503, "later", 75, "try again in a few seconds"),
    "master_lagging": FaultKind(503, "later", 75, "history is behind: try again in a minute"),
    "store_unavailable": FaultKind(
        503, "later", 75, "see `mesh doctor`: the broker stores nothing"
    ),
    "store_full": FaultKind(507, "later", 75, "give the broker more disk, or raise its limits"),
    "broker_unreachable": FaultKind(
        503,
        "later",
        7,
        "start the master, which starts its broker, or see its log and /readyz; else the address",
    ),
    "not_ready": FaultKind(503, "later", 7, "is it started, and its broker up? see its log"),
    "credentials_rejected": FaultKind(
        403,
        "never",
        77,
        "an agent: `broker-agent setup` with a new token; a client: an admin's"
        " `mesh client create`; no admin left: `broker-master init --new-admin`",
    ),
    # an agent's answer to one attempt
    "agent_full": FaultKind(
        429, "elsewhere", 75, "wait for a free slot or for room, or add agents"
    ),
    "agent_draining": FaultKind(409, "elsewhere", 75, "the agent takes no new work"),
    "agent_expired": FaultKind(409, "elsewhere", 75, "the agent's certificate has ended"),
    "agent_unleased": FaultKind(409, "elsewhere", 75, "the agent has lost its master"),
    "attempt_stale": FaultKind(410, "elsewhere", 75, "the request came too late to be run"),
    "epoch_stale": FaultKind(409, "never", 75, "a newer master is in charge"),
    "journal_unavailable": FaultKind(507, "elsewhere", 75, "the agent cannot write its journal"),
    # this machine
    "context_invalid": FaultKind(
        400,
        "never",
        78,
        "check the file, or make one with `mesh client create`; no admin left:"
        " `broker-master init --new-admin`",
    ),
    "settings_invalid": FaultKind(400, "never", 78, "correct the setting that the message names"),
    "extra_missing": FaultKind(
        500,
        "never",
        78,
        "install the extra beside this program, with pip or `pipx install --force`",
    ),
    "host_unfit": FaultKind(500, "never", 78, "give the process what the message names"),
    "state_unreadable": FaultKind(500, "never", 78, "check the path, its owner and its mode"),
    "state_foreign": FaultKind(
        409, "never", 78, "it belongs to another mesh or program: name another"
    ),
    "state_missing": FaultKind(
        404, "never", 78, "run `broker-master init` or `broker-agent setup` first"
    ),
    "state_corrupt": FaultKind(500, "never", 78, "restore it from a backup, or set up again"),
    "state_locked": FaultKind(409, "later", 75, "another process uses it: stop it first"),
    "disk_full": FaultKind(507, "later", 75, "free some space and start again"),
    "internal": FaultKind(500, "later", 1, "see the log of the process that answered"),
}


_HEADLINE_LEN: Final = 512


def known_code(code: str) -> str:
    """`code` if it is an entry of `FAULTS`, else `other`.

    Counters and metric labels use it for codes from the wire, so that no peer adds a series.
    """
    return code if code in FAULTS else "other"


class MeshError(Exception):
    """A refusal or failure, with all that its receiver needs to act upon it.

    code: an entry of `FAULTS`. message: what failed, in lower case, with the ids.
    effect: whether the request may have had its effect nevertheless.
    advice: what to do, given at the place that knows the cause; by default the code's in `FAULTS`.
    """

    effect: Effect = "none"

    def __init__(
        self, code: str, message: str, *, effect: Effect | None = None, advice: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice or self.kind.advice
        if effect is not None:
            self.effect = effect

    @property
    def kind(self) -> FaultKind:
        return FAULTS.get(self.code, FAULTS["internal"])

    @property
    def headline(self) -> str:
        """The message on one line of printable text, at most `_HEADLINE_LEN` characters.

        Safe in a header, though a message may quote line ends of an agent or a client.
        """
        text = "".join(each if each.isprintable() else " " for each in self.message)
        return text[:_HEADLINE_LEN].strip()

    @property
    def retry(self) -> Retry:
        return self.kind.retry

    def body(self) -> "FaultBody":
        """The fault as it travels."""
        return FaultBody(
            code=self.code,
            message=self.message,
            retry=self.retry,
            advice=self.advice,
        )

    @classmethod
    def from_body(cls, body: "FaultBody") -> Self:
        return cls(body.code, body.message, advice=body.advice)

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Refused(MeshError):
    """The other side refused the request; it had no effect."""


class Unreachable(MeshError):
    """The request had no answer; its effect is unknown."""

    effect: Effect = "unknown"


class Expired(MeshError):
    """A timeout or a deadline has passed."""


class Corrupt(MeshError):
    """Bytes or files are damaged or of the wrong kind."""


class Misused(MeshError):
    """A mistake of the calling code."""


class FaultBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fault on the wire: the body beside the service error headers."""

    code: str
    message: str
    retry: str = "never"
    advice: str = ""
