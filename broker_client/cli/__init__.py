"""The `mesh` command."""

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.unraisablehook = _leave_if_interrupted
    try:
        code = _run()
    except KeyboardInterrupt:
        _leave()
    sys.exit(code)


def _run() -> int:
    import gc

    # Imported modules stay: repeated collections over them take a tenth of a short command.
    gc.set_threshold(50_000, 20, 50)
    from broker_client.cli.tree import run
    from broker_client.runtime.stdio import guard_output

    guard_output()
    return run(sys.argv[1:])


def _leave_if_interrupted(lost: "UnraisableHookArgs") -> None:
    """Exit with 130 at a Ctrl-C that Python would otherwise print and ignore.

    Such is one during a callback of the import system or a finalizer: nothing would end then.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(lost)


def _leave() -> NoReturn:
    import os

    try:
        os.write(2, b"mesh: interrupted\n")
    finally:
        os._exit(130)
