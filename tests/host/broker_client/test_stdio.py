"""Standard streams that are closed, full, or read by nobody."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_client.runtime.stdio import LogFile, tell

WAIT_S = 60.0


@pytest.fixture
def full() -> Iterator[int]:
    number = os.open("/dev/full", os.O_WRONLY)
    yield number
    os.close(number)


def test_line_that_cannot_be_written_is_lost_and_counted_once_writing_works(
    full: int, tmp_path: Path
) -> None:
    log = LogFile(full)
    for _ in range(3):
        log.write('{"event": "one"}\n')
    assert log.lost == 3
    os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), full)
    log.write('{"event": "two"}\n')
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [{"event": "log_lines_lost", "count": 3}, {"event": "two"}]
    assert log.lost == 0


def test_reader_that_stands_still_blocks_nobody() -> None:
    theirs, ours = os.pipe()
    log = LogFile(ours)
    line = "x" * 999 + "\n"
    for _ in range(200):  # more than a pipe holds
        log.write(line)
    assert log.lost > 0
    os.set_blocking(theirs, False)
    said = os.read(theirs, 1 << 20)
    log.write("whole\n")
    rest = os.read(theirs, 1 << 20).decode().splitlines()
    assert [each for each in said.decode().splitlines()[:-1] if each != line.strip()] == []
    assert rest[-1] == "whole"
    assert "log_lines_lost" in rest[-2]
    os.close(theirs)
    log.write("the reader has gone\n")
    assert log.lost == 1
    os.close(ours)


def test_words_that_nobody_takes_are_dropped(full: int) -> None:
    assert tell("a word\n", full) is False


PRINTING = """
import os, sys
from broker_client.runtime.program import run_tool
def work():
    os.fstat(0), os.fstat(1), os.fstat(2)
    print("caf\\u00e9 \\udcff")
    return 0
run_tool("tool", work)
"""


def printing(how: str, **env: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["sh", "-c", f'"$@" {how}', "sh", sys.executable, "-c", PRINTING],
        capture_output=True,
        timeout=WAIT_S,
        check=False,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("", 0, b""),
        ("<&-", 0, b""),
        ("2>&-", 0, b""),
        ("2>/dev/full", 0, b""),
        (">/dev/full", 74, b"tool: the output cannot be written: No space left on device\n"),
        (">&-", 74, b"tool: the output cannot be written: Bad file descriptor\n"),
        ("<&- >&- 2>&-", 74, b""),
        (">/dev/full 2>&1", 74, b""),
    ],
)
def test_output_that_cannot_be_written_is_one_line_and_a_code(
    how: str, code: int, words: bytes
) -> None:
    ran = printing(how)
    assert (ran.returncode, ran.stderr) == (code, words)


def test_reader_that_has_gone_ends_a_tool_as_everywhere() -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    command = [sys.executable, "-c", PRINTING]
    ran = subprocess.run(command, stdout=ours, stderr=subprocess.PIPE, timeout=WAIT_S, check=False)
    os.close(ours)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_text_that_the_encoding_lacks_is_spelled_out() -> None:
    assert printing("", PYTHONIOENCODING="ascii").stdout == b"caf\\xe9 \\udcff\n"
    assert printing("", PYTHONIOENCODING="utf-8").stdout == "café \\udcff\n".encode()
