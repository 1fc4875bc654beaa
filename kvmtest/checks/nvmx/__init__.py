"""Checks of nested VMX
====================

Entries to L2, and what L1 may ask for in vmcs12.
"""
