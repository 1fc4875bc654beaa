"""kvmtest
=======

Prove, on the machine it runs on, whether KVM keeps the host's FREEZE_IN_SMM in force while guests
run. Importing this package loads nothing else; the command line is :mod:`kvmtest.cli`.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
