"""Trouble with TDs
================

The witness klog as the checks of TDs use it.
"""

import re

from kvmtest.checks.context import RunLog
from kvmtest.checks.witnesses.kernel_log import LogWitness
from kvmtest.kvm.tdx_status import line_in_words

__all__ = ["open_log"]

#: What a report of trouble with TDs has in a line.
OWN = re.compile(r"tdx|TDX|SEAMCALL|TD[HG][_.]|\bTD\b")


def open_log(log: RunLog) -> LogWitness:
    """Return a witness of the log that knows trouble with TDs; raises LogError."""
    return LogWitness.open(log, OWN, line_in_words)
