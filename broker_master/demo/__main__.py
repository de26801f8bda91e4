"""`python -m broker_master.demo [--once] [--state-dir D]`. The only place that ends the process."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from broker_master.demo.crew import Crew, DemoFailed, wait_for_signal
from broker_master.demo.story import hand_over, tell

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody wants us to end. Not an Exception, as KeyboardInterrupt is not."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        folder = _made_folder(options.state_dir)
    except DemoFailed as error:
        return _fail(error)
    is_kept = options.state_dir is not None
    code = _play(Crew(folder), once=options.once, is_kept=is_kept)
    # What failed leaves its logs behind.
    if not is_kept and code != 1:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _play(crew: Crew, *, once: bool, is_kept: bool) -> int:
    """Tell the story and end every process, whatever happens; the exit code."""
    is_told = False
    try:
        tell(crew)
        is_told = True
        if not once:
            hand_over(crew, is_kept=is_kept)
            wait_for_signal(crew)
    except Interrupted as stop:
        # Once the story is told, being ended is how it is meant to end.
        return 0 if is_told else stop.exit_code
    except BrokenPipeError:
        # Nobody reads us any more, so that the last flush must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (DemoFailed, OSError) as error:
        return _fail(error)
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        crew.stop()
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
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


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _fail(error: Exception) -> int:
    sys.stdout.flush()
    print(f"demo: {error}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
