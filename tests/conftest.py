"""What holds for all tests."""

import signal

# A run in the background, or under nohup, ignores these, and so would every program that a test
# starts and then interrupts.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        _usual = signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, _usual)
