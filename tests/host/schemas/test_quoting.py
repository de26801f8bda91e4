"""Bash takes the line of a program for the same arguments."""

import random
import subprocess

from schemas.argv import quoted_word

CHARACTERS = "ab \t\n\r\x01\x1b\x7f\x85'\"\\\\$`!*ü€\u202e\U000e0001\U0001f600"


def test_shell_gives_back_the_arguments_that_were_quoted() -> None:
    """Control characters, tabs and line ends included."""
    made = random.Random(7)
    words = ["".join(made.choices(CHARACTERS, k=length)) for length in range(60) for _ in range(4)]
    line = " ".join(["printf", "'%s\\0'", *map(quoted_word, words)])
    assert line.isprintable() or "\n" not in line
    said = subprocess.run(
        ["bash", "--norc", "-c", line],
        capture_output=True,
        check=True,
        timeout=60,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert said.stdout.decode().split("\0")[:-1] == words
