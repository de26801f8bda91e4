"""The control plane: accepts commands, assigns them to agents, and reports their outcomes."""

from typing import Final

VERSION: Final = "0.1.0"
