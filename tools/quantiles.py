#!/usr/bin/env python3
"""Print kvmtest/judge/quantiles.py: Student's t by scipy."""

import sys

from scipy.special import stdtrit

ERROR, MANY = 1e-5, 100

HEAD = f'''"""Quantiles
=========

The values that Student's t exceeds with probability {ERROR:g}, by degrees of freedom from 1 on.
tools/quantiles.py made them with scipy, so that neither the judge nor the lab's machine needs it.
"""

__all__ = ["ERROR", "QUANTILES"]

#: The probability that one bound of an interval is wrong.
ERROR = {ERROR!r}

QUANTILES = ('''


def main() -> None:
    """Print the module."""
    values = [float(stdtrit(float(freedom), 1 - ERROR)) for freedom in range(1, MANY + 1)]
    sys.stdout.write("\n".join([HEAD, *(f"    {value!r}," for value in values), ")\n"]))


if __name__ == "__main__":
    main()
