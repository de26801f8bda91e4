"""`python -m broker_master.demo [--loss] [--once] [--state-dir D]`.

The only place that ends the process.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from broker_master.demo import loss
from broker_master.demo.crew import Crew, DemoFailed, wait_for_signal
from broker_master.demo.interrupts import Interrupted, Interrupts
from broker_master.demo.story import hand_over, tell


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    interrupts = Interrupts()
    interrupts.install()
    try:
        folder = _made_folder(options.state_dir)
    except DemoFailed as error:
        return _fail(error)
    except Interrupted as stop:
        return stop.exit_code
    is_kept = options.state_dir is not None
    crew = Crew(folder, interrupts, loss.TIMERS if options.loss else {})
    try:
        code = _play(crew, options, is_kept=is_kept)
        interrupts.ignore()
    except Interrupted as stop:
        code = stop.exit_code
    finally:
        crew.stop()
    # A failure leaves its logs behind.
    if not is_kept and code != 1:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _play(crew: Crew, options: argparse.Namespace, *, is_kept: bool) -> int:
    """Tell the story, and stay if wanted; the exit code."""
    try:
        if options.loss:
            loss.tell(crew)
            return 0
        tell(crew)
        if not options.once:
            hand_over(crew, is_kept=is_kept)
            _stay(crew)
    except BrokenPipeError:
        # The reader is gone: the last flush must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (DemoFailed, OSError) as error:
        return _fail(error)
    return 0


def _stay(crew: Crew) -> None:
    # After the story, a signal is the expected end.
    with contextlib.suppress(Interrupted):
        wait_for_signal(crew)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--loss", action="store_true", help="cut a link and heal it; ends by itself"
    )
    parser.add_argument("--once", action="store_true", help="end when the story is told")
    parser.add_argument("--state-dir", type=Path, help="a new or empty folder, kept afterwards")
    return parser


def _made_folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="mesh-demo-"))
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise DemoFailed(f"{wanted} is not empty: name a new folder")
    except OSError as error:
        raise DemoFailed(f"cannot use {wanted}: {error.strerror}") from error
    return wanted.absolute()


def _fail(error: Exception) -> int:
    sys.stdout.flush()
    print(f"demo: {error}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
