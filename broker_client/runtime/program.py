"""Exit of the programs on a mesh's hosts: each fault has one form and an exit code."""

import contextlib
import json
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
from schemas.texts import visible

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
# EX_IOERR of sysexits.h; 75, 77 and 78 are from there, too.
UNWRITABLE: Final = 74


def run_tool(name: str, command: Callable[[], object], *, is_json: bool = False) -> NoReturn:
    """Run a command that prints for its caller, and exit; unwritable output is a fault.

    is_json: a fault is told as JSON.
    """
    guard_output()
    code = 0
    try:
        code = _run(name, command, is_json=is_json)
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


def _run(name: str, command: Callable[[], object], *, is_json: bool = False) -> int:
    try:
        command()
    except MeshError as error:
        return _fail(name, error, is_json=is_json)
    except BaseExceptionGroup as group:
        known = _first_fault(group)
        if known is None:
            raise
        return _fail(name, known, is_json=is_json)
    except ImportError as error:
        lacking = fault_of_import(error)
        if lacking is None:
            raise
        return _fail(name, lacking, is_json=is_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        return end.code or 0
    return 0


def _fail(name: str, error: MeshError, *, is_json: bool) -> int:
    with contextlib.suppress(OSError):  # `flush_output` raises it again
        sys.stdout.flush()  # the output comes before the fault
    tell(fault_json(error) if is_json else fault_text(name, error))
    return error.kind.exit_code


def fault_text(name: str, error: MeshError) -> str:
    """Return a fault as all programs tell it: what and its code, below it what to do."""
    advice = f"  {visible(error.advice)}\n" if error.advice else ""
    return f"{name}: {visible(str(error))}\n{advice}"


def fault_json(error: MeshError) -> str:
    """Return a fault as all programs tell it with `--output json`, on one line."""
    fault = {"code": error.code, "message": error.message}
    return json.dumps({**fault, "retry": error.retry, "advice": error.advice}) + "\n"


def _first_fault(group: BaseExceptionGroup[BaseException]) -> MeshError | None:
    for error in group.exceptions:
        if isinstance(error, MeshError):
            return error
        if isinstance(error, BaseExceptionGroup) and (found := _first_fault(error)) is not None:
            return found
    return None
