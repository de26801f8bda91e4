"""The numbers that bound what travels; reaching one gives a fault that names it."""

from typing import Final

from schemas import spans

# What a client or an agent may send.
PAYLOAD_BYTES: Final = 256 * 1024
# The master's envelope around a command's arguments comes on top of the largest body.
BROKER_PAYLOAD_BYTES: Final = 320 * 1024
# Of one argument, or one NAME=VALUE: MAX_ARG_STRLEN of Linux, 32 pages of 4 KiB, less its NUL byte.
ARGUMENT_BYTES: Final = 128 * 1024 - 1
DEPTH: Final = 16
ITEMS: Final = 8192
LIST_LEN: Final = 4096
MAP_LEN: Final = 1024
TEXT_LEN: Final = 4096
FILTER_LEN: Final = 1000
LABELS: Final = 32
# What the mesh may add to those of a client: a trace context, the fan-out, the retried command.
OWN_LABELS: Final = 8
LABEL_LEN: Final = 256
# Of the addresses of brokers, and so many of them.
URL_LEN: Final = 300
URLS: Final = 16
TAGS: Final = 16
INLINE_OUTPUT_BYTES: Final = 32 * 1024
# Characters of a reason, or of any other word of an agent, that the master keeps.
REASON_LEN: Final = 1000
# Attempts that end as refused or lost before the command is ended as it stands.
ATTEMPTS: Final = 100
# A command as it is answered, and as history keeps it; what is longer is cut, with a mark.
RECORD_BYTES: Final = 160 * 1024
HISTORY_BYTES: Final = BROKER_PAYLOAD_BYTES - 1024
# The rows of one page of a list. Of lists that had no pages before: all that fits, as before.
PAGE_BYTES: Final = 200 * 1024
WHOLE_LIST_BYTES: Final = BROKER_PAYLOAD_BYTES - 8 * 1024
# Two of them fill the largest answer to a reader.
CHUNK_BYTES: Final = 96 * 1024
# So many, each with every field set, still hold fewer than ITEMS values.
REPORT_ITEMS: Final = 200
HELLO_TASKS: Final = 512
FEATURES: Final = 32
# Actions that one agent may say it has.
ACTIONS: Final = 64
OUTPUT_LIMIT_BYTES: Final = 100 * 1024 * 1024
QUEUE_TTL_MAX_S: Final = 30 * spans.DAY_S
PAUSE_MAX_S: Final = 90 * spans.DAY_S
TIMEOUT_MAX_S: Final = 30 * spans.DAY_S
