"""Settings of all tests."""

import ctypes
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A run in the background, or under nohup, ignores these, and so would every program that a test
# starts and then interrupts.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        _usual = signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, _usual)

# Examples for each property: few each time, and many in `make chaos`, which asks for
# --hypothesis-profile=deep. A property that names a number of its own is not concerned.
settings.register_profile("usual", max_examples=60)
settings.register_profile("deep", max_examples=1000)
settings.load_profile("usual")


# Source: prctl(2).
_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def _orphans_go_to_init() -> Iterator[None]:
    """A test that builds the executors of an agent makes this process the parent of orphans.

    Later tests would see their killed programs' children as zombies that nothing collects.
    """
    yield
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
