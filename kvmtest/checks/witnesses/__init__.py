"""Witnesses
=========

What looks at properties, a module for each: ``vmcs`` and ``runflags`` look at VM-entries, ``leak``
at what vCPUs went through. :mod:`.witness` says what a witness of entries has to have.
"""
