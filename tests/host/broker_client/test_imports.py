"""Modules that a command line loads, each looked at in an interpreter of its own."""

import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_S


def assert_passes(script: str) -> None:
    """Run it in an interpreter of its own: what is imported here stays imported."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_overview_imports_neither_the_parser_nor_the_network() -> None:
    script = (
        "import sys\n"
        "from broker_client.cli.tree import run\n"
        "run(['--help'])\n"
        "heavy = {'cyclopts', 'nats', 'rich', 'structlog', 'cryptography', 'asyncio'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr


def test_client_is_loaded_without_what_a_command_line_does_not_use() -> None:
    assert_passes(
        "import sys\n"
        "from broker_client.cli.session import lightly\n"
        "with lightly():\n"
        "    import broker_client.api\n"
        "unused = {'rich', 'importlib.metadata', 'email', 'nats.js', 'cryptography.x509'}\n"
        "assert 'structlog' in sys.modules\n"
        "assert not unused & set(sys.modules), unused & set(sys.modules)\n"
        # All of it is there for who asks.
        "import importlib.metadata, nats, rich\n"
        "assert nats.js.JetStreamContext.__name__ == 'JetStreamContext'\n"
        "from nats.js.api import StreamConfig\n"
        "assert nats.js.api.StreamConfig is StreamConfig\n"
    )


def test_parsing_a_command_imports_no_network(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from broker_client.cli.tree import run\n"
        f"run(['--context', {str(tmp_path / 'no.toml')!r}, 'group', 'list'])\n"
        "sys.exit(', '.join(sorted({'nats', 'rich'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
