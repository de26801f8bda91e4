"""The last line that a failed program has printed to stderr, as the reason of its end."""

from typing import Final

import msgspec

from schemas.messages.facts import Outcome
from schemas.messages.work import LogChunk
from schemas.states import State
from schemas.texts import ON_STDERR, cut_text, visible

# As much as a list shows at most; the whole is in the output.
_LINE_LEN: Final = 200
# Bytes that are looked at: a line of the longest characters, and empty lines behind it.
_LOOKED_AT: Final = 4096


def explained(outcome: Outcome) -> Outcome:
    """A failure without a reason gets it from the output that came with it."""
    output = outcome.output
    if not _is_unexplained(outcome) or output is None or output.truncated:
        return outcome
    return _with_line(outcome, output.stderr)


def is_in_logs(outcome: Outcome) -> bool:
    """Whether the line can only be found in the log stream."""
    return _is_unexplained(outcome) and outcome.output is None and outcome.stderr_bytes > 0


def explained_by(outcome: Outcome, chunk: LogChunk) -> Outcome:
    """As `explained`, with the newest chunk of stderr, if that is the end of it."""
    if chunk.offset + len(chunk.data) < outcome.stderr_bytes:
        return outcome
    return _with_line(outcome, chunk.data)


def _is_unexplained(outcome: Outcome) -> bool:
    return outcome.state == State.FAILED and not outcome.reason


def _with_line(outcome: Outcome, stderr: bytes) -> Outcome:
    lines = stderr[-_LOOKED_AT:].decode("utf-8", "replace").rstrip().splitlines()
    line = visible(lines[-1].strip()) if lines else ""
    if not line:
        return outcome
    return msgspec.structs.replace(outcome, reason=ON_STDERR + cut_text(line, _LINE_LEN))
