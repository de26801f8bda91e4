"""The control plane: takes commands in, gives them to agents, and says truthfully what became."""

from typing import Final

VERSION: Final = "0.1.0"
