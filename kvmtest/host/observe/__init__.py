"""Observation
===========

What a run looks at on the host: the kernel log, VMCS dumps, tracing, run flags.
"""
