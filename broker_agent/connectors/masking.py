"""Runs one program with secrets in its environment, and removes their values from its output.

  python -I -m broker_agent.connectors.masking -- PROGRAM ARG…

stdin: a file with the length of the secrets in four bytes, the secrets as a map from variables to
values in msgpack, then the program's own input. Signals go to the whole process group, so none is
passed on.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Final

import msgspec

from broker_agent.connectors.confine import shut_process
from broker_agent.connectors.scrub import SHORT, forms

_CHUNK: Final = 64 * 1024
_MASK: Final = b"***"
# As a shell: not found, and not executable.
_MISSING: Final = 127
_REFUSED: Final = 126


class Masker:
    """Replaces secrets in a stream of bytes, also those that are split between two chunks."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        # The longest first, so that no secret hides a part of a longer one.
        found = sorted({each for each in secrets if each}, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, found)) or rb"(?!)")
        self._kept = max(map(len, found), default=1) - 1
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what may be written by now; the rest waits for the next chunk."""
        data = self._rest + chunk
        return self._masked(data, max(len(data) - self._kept, 0))

    def finish(self) -> bytes:
        return self._masked(self._rest, len(self._rest))

    def _masked(self, data: bytes, ready: int) -> bytes:
        """Mask the secrets that begin in the first `ready` bytes, and keep what follows."""
        done, at = bytearray(), 0
        for match in self._pattern.finditer(data):
            if match.start() >= ready:
                break
            done += data[at : match.start()] + _MASK
            at = match.end()
        done += data[at:ready]
        self._rest = data[max(at, ready) :]
        return bytes(done)


def main(argv: list[str]) -> int:
    """Run it; returns its exit code, or 128 and the number of the signal that ended it."""
    shut_process()
    secrets = msgspec.msgpack.decode(_read(int.from_bytes(_read(4), "big")), type=dict[str, str])
    program = argv[argv.index("--") + 1 :]
    if any(len(value) < SHORT for value in secrets.values()):
        return _say(f"a secret has fewer than {SHORT} characters: none can be hidden", _REFUSED)
    masked = [form.encode() for value in secrets.values() for form in forms(value)]
    try:
        child = subprocess.Popen(
            program,
            env={**os.environ, **secrets},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        code = _MISSING if isinstance(error, FileNotFoundError) else _REFUSED
        return _say(f"{program[0]}: {error.strerror}", code)
    # The group gets TERM as a whole: the output that the child still writes is passed on.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipes = ((child.stdout, 1), (child.stderr, 2))
    threads = [
        threading.Thread(target=_copy, args=(pipe.fileno(), to, Masker(masked)))
        for pipe, to in pipes
        if pipe is not None
    ]
    for thread in threads:
        thread.start()
    code = child.wait()
    for thread in threads:
        thread.join()
    return code if code >= 0 else 128 - code


def _read(size: int) -> bytes:
    """Read just so many bytes, so that the program finds its input behind them."""
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    return code


def _copy(source: int, target: int, masker: Masker) -> None:
    while chunk := os.read(source, _CHUNK):
        _write(target, masker.feed(chunk))
    _write(target, masker.finish())


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
