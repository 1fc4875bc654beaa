"""Child processes
===============

A child that ends with its parent, however the parent ends.
"""

import os
import shutil
from collections.abc import Sequence

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit

__all__ = ["mortal"]


def mortal(command: Sequence[str]) -> list[str]:
    """Return the command that runs ``command``, and is killed as the calling thread ends.

    Raises EnvironmentUnfit where setpriv(1) is missing.
    """
    if shutil.which("setpriv") is None:
        raise EnvironmentUnfit(f"setpriv is missing; {install('util-linux')}")
    # Where we died before setpriv asked for the signal of our death, the shell stops.
    unless_orphaned = ["sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
    return ["setpriv", "--pdeathsig", "KILL", "--", *unless_orphaned, *command]
