"""Libraries that an install may lack: which extra of the package brings each."""

import importlib.util
from collections.abc import Iterable
from typing import Final

from schemas.faults import Refused

# Modules by the extra that brings them. What its user can do without (uvloop) is not here.
EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "master": ("jinja2", "litestar", "uvicorn"),
    "amqp": ("aio_pika",),
}
_EXTRA_OF: Final = {module: extra for extra, modules in EXTRAS.items() for module in modules}


def lacking(extra: str) -> bool:
    """Whether a module of `extra` is not installed."""
    return any(importlib.util.find_spec(module) is None for module in EXTRAS[extra])


def no_extras(extras: Iterable[str], what: str) -> Refused:
    """The fault of an install without `extras`; what: that which needs them."""
    wanted = ",".join(extras)
    said = f"{what} needs what is not installed: `pip install 'agent-mesh[{wanted}]'`"
    return Refused("extra_missing", said)


def fault_of_import(error: ImportError) -> Refused | None:
    """The fault behind a failed import; None if no extra brings the module: a defect."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(module)
    return None if extra is None else no_extras([extra], module)
