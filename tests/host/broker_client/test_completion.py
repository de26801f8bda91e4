"""Completion, as a real shell carries it out."""

import subprocess

import pytest

from tests.unit.broker_client.test_cli_examples import tool
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["broker-agent", "st"], ["status"]),
        (["broker-agent", "status", "--output", ""], ["table", "json"]),
        (["broker-agent", "doctor", "--ti"], ["--timeout"]),
        (["broker-master", "serve", "--nats-"], ["--nats-port", "--nats-host"]),
        (["broker-master", "completion", "f"], ["fish"]),
    ],
    ids=" ".join,
)
def test_programs_are_completed_in_a_real_bash(
    words: list[str], found: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool(words[0])(["completion", "bash"]) == 0
    typed = " ".join(f"'{word}'" for word in words)
    function = f"_{words[0].replace('-', '_')}"
    script = f"{capsys.readouterr().out}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}\n"
    done = subprocess.run(
        ["bash", "--norc", "-c", f'{script}{function}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert sorted(done.stdout.split()) == sorted(found)
