"""The numbers that bound what travels; reaching one gives a fault that names it."""

from typing import Final

# What a client or an agent may send.
PAYLOAD_BYTES: Final = 256 * 1024
# The master's envelope around a command's arguments comes on top of the largest body.
BROKER_PAYLOAD_BYTES: Final = 320 * 1024
DEPTH: Final = 16
ITEMS: Final = 8192
LIST_LEN: Final = 4096
MAP_LEN: Final = 1024
TEXT_LEN: Final = 4096
LABELS: Final = 32
LABEL_LEN: Final = 256
TAGS: Final = 16
INLINE_OUTPUT_BYTES: Final = 32 * 1024
# Two of them fill the largest answer to a reader.
CHUNK_BYTES: Final = 96 * 1024
# So many, each with every field set, still hold fewer than ITEMS values.
REPORT_ITEMS: Final = 200
HELLO_TASKS: Final = 512
OUTPUT_LIMIT_BYTES: Final = 100 * 1024 * 1024
QUEUE_TTL_MAX_S: Final = 30 * 86_400.0
PAUSE_MAX_S: Final = 90 * 86_400.0
TIMEOUT_MAX_S: Final = 30 * 86_400.0
