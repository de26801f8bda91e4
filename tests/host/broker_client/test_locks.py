"""Locks of folders between processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from broker_client.runtime import files
from schemas.faults import Refused


def test_lock_of_another_process_holds_until_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from broker_client.runtime.files import lock_directory\n"
        "lock = lock_directory(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Refused) as caught:
            files.lock_directory(tmp_path)
        assert f"process {holder.pid}" in caught.value.message
        holder.kill()
        holder.wait()
        files.lock_directory(tmp_path).release()
