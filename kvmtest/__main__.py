"""Entry
=====

The command kvmtest, also as ``python -m kvmtest``.
"""

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line."""
    # While it is being imported, Ctrl-C ends the process as it ends any other: no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kvmtest.cli import main as command

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()


if __name__ == "__main__":
    sys.exit(main())
