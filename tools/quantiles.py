#!/usr/bin/env python3
"""Print kvmtest/judge/quantiles.py: Student's t by scipy."""

import sys

from scipy.special import stdtrit

ERROR, MANY = 1e-5, 100

HEAD = f'''"""Quantiles
=========

What Student's t exceeds with a probability of {ERROR:g}, by degrees of freedom from 1 on: made by
tools/quantiles.py from scipy, which the judge would otherwise have to import for one number, and
an emulated machine to hold.
"""

__all__ = ["ERROR", "QUANTILES"]

#: How often one bound of an interval may be wrong.
ERROR = {ERROR!r}

QUANTILES = ('''


def main() -> None:
    """Print the module."""
    values = [float(stdtrit(float(freedom), 1 - ERROR)) for freedom in range(1, MANY + 1)]
    sys.stdout.write("\n".join([HEAD, *(f"    {value!r}," for value in values), ")\n"]))


if __name__ == "__main__":
    main()
