"""Checks of nested VMX
====================

Entries to L2, and the values that L1 may set in vmcs12.
"""
