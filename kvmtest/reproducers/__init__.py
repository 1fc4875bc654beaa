"""Reproducers
===========

Small C programs for the kernel's maintainers, each showing one finding or property by raw ioctls:
the table of them, and the C source that is made of it.
"""

from .source import c_source, makefile
from .table import REPRODUCERS, Reproducer, find

__all__ = ["REPRODUCERS", "Reproducer", "c_source", "find", "makefile"]
