"""An operator's week from install to upgrade; `make week` shows its transcript."""

from pathlib import Path

import pytest

from tests.servers import server_binary
from tests.week import play

pytestmark = pytest.mark.chaos


async def test_week_of_an_operator_is_what_its_commands_say(tmp_path: Path) -> None:
    server_binary()
    transcript: list[str] = []
    await play(tmp_path, transcript.append)
    days = [line.partition("=== ")[2].partition(":")[0] for line in transcript if "===" in line]
    assert days == ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
