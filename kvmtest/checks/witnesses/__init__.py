"""Witnesses
=========

Each witness has a module: ``vmcs`` and ``runflags`` look at VM-entries, ``leak`` at windows after a
stimulus. :mod:`.witness` defines the interface of a witness of entries.
"""
