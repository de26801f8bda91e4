"""Ctrl-C while `mesh` loads its parts, at moments that a storm meets by chance only."""

import subprocess
import sys

import pytest

END_S = 60.0
# A profiler of the interpreter sees each call, so that the signal comes within one function.
PROGRAM = """
import signal, sys
from broker_client.cli import main

def see(frame, event, _):
    code = frame.f_code
    place = (code.co_qualname, code.co_filename)
    if event == "call" and place[0] == function and place[1].endswith(file):
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

function, file = sys.argv[1:]
sys.argv = ["mesh", "top", "--colour"]
sys.setprofile(see)
main()
"""


@pytest.mark.parametrize(
    ("function", "file"),
    [
        # Python prints and ignores what a callback of its import system raises.
        ("_get_module_lock.<locals>.cb", "importlib._bootstrap>"),
        # Before anything can say so.
        ("<module>", "cli/words.py"),
        # A package stays half imported, which what says so must not need.
        ("<module>", "cyclopts/exceptions.py"),
        ("<module>", "cli/mistakes.py"),
    ],
)
def test_interrupt_while_modules_load_is_one_line(function: str, file: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, function, file],
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "mesh: interrupted\n")
