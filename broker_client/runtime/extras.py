"""Optional libraries of an install, by the extra of the package that brings them."""

import importlib.util
from collections.abc import Iterable
from typing import Final

from schemas.faults import Refused

# Modules by the extra that brings them, except optional ones (uvloop).
EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "master": ("jinja2", "litestar", "uvicorn"),
    "amqp": ("aio_pika",),
}
_EXTRA_OF: Final = {module: extra for extra, modules in EXTRAS.items() for module in modules}


def lacking(extra: str) -> bool:
    """Whether a module of `extra` is not installed."""
    return any(importlib.util.find_spec(module) is None for module in EXTRAS[extra])


def no_extras(extras: Iterable[str], what: str) -> Refused:
    """Return the fault of an install without `extras`; what: the feature that needs them."""
    wanted = ",".join(extras)
    said = f"{what} needs what is not installed: `pip install 'agent-mesh[{wanted}]'`"
    return Refused("extra_missing", said)


def fault_of_import(error: ImportError) -> Refused | None:
    """Return the fault of a failed import; None if no extra brings the module (a defect)."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(module)
    return None if extra is None else no_extras([extra], module)
