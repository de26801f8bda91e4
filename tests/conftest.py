"""Settings of all tests."""

import signal

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
