"""Mutants
=======

Faults of the host-owned DEBUGCTL code, one at a time, as patches to KVM's source: a suite that
lets one of them pass does not test the line that it breaks.
"""

from .table import MUTANTS, REPAIRS, UNCOVERED, Mutant, Uncovered, find

__all__ = ["MUTANTS", "REPAIRS", "UNCOVERED", "Mutant", "Uncovered", "find"]
