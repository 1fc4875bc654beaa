"""Checks of vmcs12
================

The DEBUGCTL that an L1 puts into vmcs12, and the one that it finds there.
"""
