"""Exit of the programs on a mesh's hosts: each fault is one line on stderr and an exit code."""

import contextlib
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from broker_client.runtime.extras import fault_of_import
from broker_client.runtime.stdio import (
    OutputFailed,
    flush_output,
    give_up_output,
    guard_output,
    open_standard_streams,
    tell,
)
from schemas.faults import MeshError

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
# EX_IOERR of sysexits.h; 75, 77 and 78 are from there, too.
UNWRITABLE: Final = 74


def run_tool(name: str, command: Callable[[], object]) -> NoReturn:
    """Run a command that prints for its caller, and exit; unwritable output is a fault."""
    guard_output()
    code = 0
    try:
        code = _run(name, command)
        flush_output()
    except BrokenPipeError:
        give_up_output()
        code = BROKEN_PIPE
    except OutputFailed as error:
        give_up_output()
        tell(f"{name}: {unwritable(error)}\n")
        code = UNWRITABLE
    sys.exit(code)


def run_service(name: str, command: Callable[[], object]) -> NoReturn:
    """Run a long-lived process, and exit; unwritable output does not end it."""
    open_standard_streams()
    sys.exit(_run(name, command))


def unwritable(error: OutputFailed) -> str:
    return f"the output cannot be written: {error.strerror}"


def _run(name: str, command: Callable[[], object]) -> int:
    try:
        command()
    except MeshError as error:
        return _fail(name, error)
    except BaseExceptionGroup as group:
        known = _first_fault(group)
        if known is None:
            raise
        return _fail(name, known)
    except ImportError as error:
        lacking = fault_of_import(error)
        if lacking is None:
            raise
        return _fail(name, lacking)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        return end.code or 0
    return 0


def _fail(name: str, error: MeshError) -> int:
    with contextlib.suppress(OSError):  # `flush_output` raises it again
        sys.stdout.flush()  # the output comes before the fault
    tell(f"{name}: {error}; {error.advice}\n")
    return error.kind.exit_code


def _first_fault(group: BaseExceptionGroup[BaseException]) -> MeshError | None:
    for error in group.exceptions:
        if isinstance(error, MeshError):
            return error
        if isinstance(error, BaseExceptionGroup) and (found := _first_fault(error)) is not None:
            return found
    return None
