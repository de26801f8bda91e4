"""The carrier loses no byte, whatever programs do with stdout, and whichever process is killed."""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_agent.carrier import flow
from broker_agent.carrier.flow import EMPTY, HELD, Flow
from broker_agent.services.shipment import Shipment
from broker_agent.store.folders import Folders, TaskFolder
from tests.host.broker_agent.rig import WAIT_S, Rig
from tests.waiting import eventually

SHELL = "/bin/sh"
CA_REQUEST = "openssl req -x509 -newkey ed25519 -nodes -subj /CN=x -keyout /dev/null"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()
    yield rig
    await rig.close()


async def printed(rig: Rig, argv: list[str], command: str = "c1") -> tuple[bytes, bytes]:
    """Output of a task for a reader, whose size must agree with the task's record."""
    rig.run(command, argv)
    end = await rig.end_of(command)
    if end.output is not None:
        out, err = end.output.stdout, end.output.stderr
    else:
        out, err = rig.stored(command, "stdout"), rig.stored(command, "stderr")
    assert (len(out), len(err), end.truncated) == (end.stdout_bytes, end.stderr_bytes, False)
    return out, err


@pytest.mark.parametrize(
    ("text", "out", "err"),
    [
        ("echo a; echo b > /dev/stdout; echo c", b"a\nb\nc\n", b""),
        ("echo a; echo b > /proc/self/fd/1; echo c", b"a\nb\nc\n", b""),
        ("echo a >&2; echo b | tee /dev/stderr; echo c >&2", b"b\n", b"a\nb\nc\n"),
        ("echo a >&2; exec 3>/dev/stderr; echo b >&3; echo c >&2", b"", b"a\nb\nc\n"),
        ("echo a; dd if=/dev/null of=/dev/stdout 2>/dev/null; echo c", b"a\nc\n", b""),
        ("echo a; truncate -s 0 /dev/stdout 2>/dev/null; echo c", b"a\nc\n", b""),
    ],
)
async def test_program_that_opens_its_own_output_loses_nothing(
    rig: Rig, text: str, out: bytes, err: bytes
) -> None:
    assert await printed(rig, [SHELL, "-c", text]) == (out, err)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_download_to_dev_stdout_keeps_what_came_before(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("page\n")
    text = f"echo a; curl -s -o /dev/stdout file://{tmp_path}/page; echo c"
    assert (await printed(rig, [SHELL, "-c", text]))[0] == b"a\npage\nc\n"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
async def test_tool_with_an_option_for_its_output_keeps_what_came_before(rig: Rig) -> None:
    text = f"echo a; {CA_REQUEST} -out /dev/stdout 2>/dev/null; echo c"
    out, _ = await printed(rig, [SHELL, "-c", text])
    assert out.startswith(b"a\n-----BEGIN CERTIFICATE-----\n")
    assert out.endswith(b"-----END CERTIFICATE-----\nc\n")


async def test_output_cannot_be_rewound_or_truncated(rig: Rig) -> None:
    code = (
        "import os\n"
        "os.write(1, b'first\\n')\n"
        "for attempt in (lambda: os.lseek(1, 0, 0), lambda: os.ftruncate(1, 0)):\n"
        "    try: attempt()\n"
        "    except OSError as error: os.write(2, b'%d ' % error.errno)\n"
        "os.close(os.open('/dev/stdout', os.O_WRONLY | os.O_TRUNC | os.O_CREAT))\n"
        "os.write(1, b'last\\n')\n"
    )
    out, err = await printed(rig, [sys.executable, "-c", code])
    assert (out, err) == (b"first\nlast\n", b"%d %d " % (errno.ESPIPE, errno.EINVAL))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_program_that_becomes_another_user_can_open_its_output(rig: Rig) -> None:
    code = (
        "import os\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "for name in ('stdout', 'stderr'):\n"
        "    with open(f'/dev/{name}', 'w') as file: file.write(name)\n"
    )
    assert await printed(rig, [sys.executable, "-c", code]) == (b"stdout", b"stderr")


async def test_live_reader_gets_the_output_of_a_reopening_program_in_order(rig: Rig) -> None:
    code = (
        "import os\n"
        "for number in range(200):\n"
        "    with open('/dev/stdout', 'wb', 0) as file: file.write(b'%019d\\n' % number * 100)\n"
    )
    out, _ = await printed(rig, [sys.executable, "-c", code])
    assert out == b"".join(b"%019d\n" % number * 100 for number in range(200))


NUMBERS = (
    "import os, sys\n"
    "for number in range({count}): sys.stdout.write('%019d\\n' % number)\n"
    "sys.stdout.flush()\n"
)


def numbered(count: int) -> bytes:
    return b"".join(b"%019d\n" % number for number in range(count))


async def test_carrier_that_is_killed_again_and_again_loses_no_byte(rig: Rig) -> None:
    count = 1_000_000
    rig.run("c1", [sys.executable, "-c", NUMBERS.format(count=count)])
    rig.run("c2", [SHELL, "-c", "sleep 1; echo late"])
    for number in range(1, 4):
        await eventually(lambda n=number: rig.carrier.starts >= n, WAIT_S)  # type: ignore[misc]
        with contextlib.suppress(ProcessLookupError):
            os.kill(rig.carrier.pid, signal.SIGKILL)
    end = await rig.end_of("c1")
    assert (end.state, end.stdout_bytes, end.truncated) == ("succeeded", 20 * count, False)
    assert rig.stored("c1", "stdout") == numbered(count)
    late = await rig.end_of("c2")
    assert late.output is not None
    assert late.output.stdout == b"late\n"


async def test_program_goes_on_and_its_output_is_whole_when_the_agent_is_killed(
    tmp_path: Path,
) -> None:
    """The program prints much more than a pipe holds, with the carrier as its only reader."""
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()
    gate, done = tmp_path / "gate", tmp_path / "done"
    code = (
        f"import time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        + NUMBERS.format(count=100_000)
        + f"open({str(done)!r}, 'w').close(); time.sleep(60)\n"
    )
    rig.run("c1", [sys.executable, "-c", "import os\n" + code])
    await eventually(lambda: rig.reports("c1", "started"), WAIT_S)
    await eventually(lambda: rig.carrier.pid, WAIT_S)
    await rig.die()
    gate.touch()
    await eventually(done.exists, WAIT_S)

    again = Rig(tmp_path)
    again.recover()
    again.link()
    again.serve()
    end = await again.end_of("c1")
    assert (end.state, end.stdout_bytes, end.truncated) == ("lost", 2_000_000, False)
    assert again.stored("c1", "stdout") == numbered(100_000)
    await again.close()


async def test_output_is_marked_as_cut_when_agent_and_carrier_are_killed_together(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.link()
    rig.serve()
    gate = tmp_path / "gate"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    rig.run("c1", [sys.executable, "-c", code + NUMBERS.format(count=100_000)])
    await eventually(lambda: rig.reports("c1", "started"), WAIT_S)
    await eventually(lambda: rig.carrier.pid, WAIT_S)
    os.kill(rig.carrier.pid, signal.SIGKILL)
    await rig.die()
    gate.touch()

    again = Rig(tmp_path)
    again.recover()
    again.link()
    again.serve()
    end = await again.end_of("c1")
    assert (end.state, end.truncated) == ("lost", True)
    await again.close()


async def test_end_does_not_wait_for_a_background_program_with_the_output_open(rig: Rig) -> None:
    rig.run("c1", [SHELL, "-c", "trap '' TERM; sleep 60 & echo done"])
    end = await rig.end_of("c1")
    assert end.output is not None
    assert end.output.stdout == b"done\n"
    assert end.ended_at - end.started_at < 10


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


async def test_no_descriptor_is_left_after_a_thousand_tasks(rig: Rig) -> None:
    await printed(rig, [SHELL, "-c", "echo first"], "first")
    pid = rig.carrier.pid
    await eventually(lambda: descriptors(pid) < 16, WAIT_S)
    before = descriptors(os.getpid()), descriptors(pid)
    for turn in range(125):
        rig.echo()
        commands = [f"t{turn}-{number}" for number in range(8)]
        for command in commands:
            rig.run(command, [SHELL, "-c", "echo x" if turn % 2 else ":"])
        for command in commands:
            await rig.end_of(command)
        rig.release(*(rig.reports(command)[-1] for command in commands))
        rig.wire.published.clear()
    await eventually(lambda: descriptors(pid) <= before[1] + 3, WAIT_S)  # it may just have begun
    await eventually(lambda: descriptors(os.getpid()) <= before[0] + 2, WAIT_S)


# A full disk.


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return Folders(tmp_path, keep=0).make("c1", 1)


def test_bytes_a_full_disk_refuses_wait_and_then_become_a_gap(
    folder: TaskFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = folder.open_pipes()
    pipe = folder.cargo[0]
    carried = Flow(pipe, folder.stdout)
    os.write(out, b"a" * 1000)
    assert carried.carry() == 1000
    splice, now, full = os.splice, [100.0], True

    def refuse(source: int, target: int, *args: int, **named: int) -> int:
        if full and target == folder.stdout:
            raise OSError(errno.ENOSPC, "full")
        return splice(source, target, *args, **named)

    monkeypatch.setattr(os, "splice", refuse)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    os.write(out, b"b" * 500)
    assert carried.carry() == HELD
    now[0] += flow.HOLD_S + 1
    assert carried.carry() == 500
    os.write(out, b"b" * 200)
    assert carried.carry() == 200
    assert carried.carry() == EMPTY
    full = False
    os.write(out, b"c" * 300)
    for end in (out, err):
        os.close(end)
    assert folder.drain()
    assert folder.is_closed
    assert folder.sizes() == (2000, 0)
    assert folder.has_lost
    assert folder.lost(0, 2000) == (1000, 1700)
    assert folder.lost(1, 0).size == 0
    shipment = Shipment(("c1", 1), folder, 1_000_000)
    shipment.ended = lambda: None
    assert shipment.look()
    chunks = []
    while (chunk := shipment.take(10_000, older=False)) is not None:
        chunks.append((chunk.offset, chunk.data, chunk.skipped))
    assert chunks == [(0, b"a" * 1000, 0), (1700, b"c" * 300, 700)]
    assert shipment.truncated
    folder.close()
    again = Folders(Path(folder.path).parent, keep=0).reopen("c1", 1)
    assert again is not None
    assert (again.sizes(), again.lost(0, 2000)) == ((2000, 0), (1000, 1700))
    again.close()


def test_invalid_mark_of_a_gap_is_ignored(folder: TaskFolder) -> None:
    os.fchmod(folder.stdout, 0o700)
    os.write(folder.stdout, b"x" * 10)
    for text in ("no", "5", "-1-3", "7-5", "3-999", "x" * 4000):
        (Path(folder.path) / "stdout.lost").unlink(missing_ok=True)
        (Path(folder.path) / "stdout.lost").symlink_to(text)
        folder.sizes()
        hole = folder.lost(0, 10)
        assert 0 <= hole.start <= hole.end <= 10
    folder.close()


async def test_file_system_without_splice_is_written_to(
    folder: TaskFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: int, **_named: int) -> int:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "splice", refuse)
    out, err = folder.open_pipes()
    os.write(out, b"x" * 60_000)
    os.write(err, b"y")
    assert folder.drain()
    assert not folder.is_closed
    assert (folder.sizes(), folder.read(0, 70_000, 0)) == ((60_000, 1), b"x" * 60_000)
    for fd in (out, err):
        os.close(fd)
    folder.close()
    await asyncio.sleep(0)
