"""Tests interrupt what they start, also where a shell began them in the background."""

import signal


def pytest_configure() -> None:
    """Let SIGINT be what it is in a terminal: children inherit that it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
