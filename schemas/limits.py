"""Limits of messages; exceeding one gives a fault that names it."""

from typing import Final

from schemas import spans

# Bytes of a message from a client or an agent.
PAYLOAD_BYTES: Final = 256 * 1024
# Bytes of any message: the largest body of a command and the master's envelope around it.
BROKER_PAYLOAD_BYTES: Final = 320 * 1024
# Bytes of one argument or NAME=VALUE: MAX_ARG_STRLEN of Linux, 32 pages of 4 KiB, less its NUL.
ARGUMENT_BYTES: Final = 128 * 1024 - 1
DEPTH: Final = 16
ITEMS: Final = 9216
LIST_LEN: Final = 4096
MAP_LEN: Final = 1024
TEXT_LEN: Final = 4096
FILTER_LEN: Final = 1000
LABELS: Final = 32
# Labels that the mesh may add to a client's: a trace context, the fan-out, the retried command.
OWN_LABELS: Final = 8
LABEL_LEN: Final = 256
# Characters of a broker's address, and number of addresses.
URL_LEN: Final = 300
URLS: Final = 16
TAGS: Final = 16
INLINE_OUTPUT_BYTES: Final = 32 * 1024
# Characters of a reason, or of another text of an agent, that the master keeps.
REASON_LEN: Final = 1000
# Refused or lost attempts of a command, after which it ends.
ATTEMPTS: Final = 100
# Bytes of a command's record in answers and in history; longer parts are cut, with a mark.
RECORD_BYTES: Final = 160 * 1024
HISTORY_BYTES: Final = BROKER_PAYLOAD_BYTES - 1024
# Bytes of the rows of one page of a list.
PAGE_BYTES: Final = 200 * 1024
WHOLE_LIST_BYTES: Final = BROKER_PAYLOAD_BYTES - 8 * 1024
# Bytes of one chunk of output; two fill the largest answer of `command.logs`.
CHUNK_BYTES: Final = 96 * 1024
# Items of one report; with every field set they hold fewer than ITEMS values.
REPORT_ITEMS: Final = 200
HELLO_TASKS: Final = 512
# Profiles of an agent, and characters of the redacted settings of each.
PROFILES: Final = 128
SHAPE_LEN: Final = 500
# Bytes of the result of an action, together with its inline output.
RESULT_BYTES: Final = INLINE_OUTPUT_BYTES
# Commands at once through a connection.
AT_ONCE_MAX: Final = 10_000
FEATURES: Final = 32
# Actions in the announcement of an agent.
ACTIONS: Final = 64
# Bytes of one part of a staged input; only the last one may be shorter.
INPUT_PART_BYTES: Final = CHUNK_BYTES
# Bytes of the input of one command, and its parts.
INPUT_BYTES: Final = 1024**3
INPUT_PARTS: Final = -(-INPUT_BYTES // INPUT_PART_BYTES)
OUTPUT_LIMIT_BYTES: Final = 100 * 1024 * 1024
QUEUE_TTL_MAX_S: Final = 30 * spans.DAY_S
PAUSE_MAX_S: Final = 90 * spans.DAY_S
TIMEOUT_MAX_S: Final = 30 * spans.DAY_S
