"""The session that the README shows is what happens; `mesh top`; completion in a real bash."""

import shutil
import subprocess

import pytest

from broker_client.cli.completion import bash, fish, options, zsh
from broker_client.cli.tree import COMMANDS
from tests.session_doc import README, record, shape, shown

pytestmark = pytest.mark.integration


async def test_session_of_the_readme_has_the_shape_of_one_that_is_recorded_now() -> None:
    page, now = shape(shown(README.read_text())), shape(await record())
    assert now == page
    assert max(map(len, shown(README.read_text()))) <= 80


def completed(*words: str) -> list[str]:
    if shutil.which("bash") is None:
        pytest.skip("bash is missing: apt install bash")
    typed = " ".join(f"'{word}'" for word in words)
    script = f"{bash()}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _mesh\n"
    done = subprocess.run(
        ["bash", "--norc", "-c", script + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("mesh", "fan"), ["fanout"]),
        (("mesh", "agent", "lis"), ["list"]),
        (("mesh", "agent", "list", "--so"), ["--sort"]),
        (("mesh", "run", "--max"), ["--max-failures"]),
        (("mesh", "run", "--", "--max"), []),
        (("mesh", "nonsense", ""), []),
    ],
    ids=str,
)
def test_bash_completes_nouns_verbs_and_options(words: tuple[str, ...], found: list[str]) -> None:
    assert completed(*words) == found


def test_every_command_and_option_is_in_each_script() -> None:
    scripts = (bash(), zsh(), fish())
    for noun, verb, _, _ in COMMANDS:
        assert all(noun in script and verb in script for script in scripts)
        for option in options()[noun, verb]:
            assert option in scripts[0]
            assert f"-l {option[2:]}" in scripts[2]
