"""Checks of VMX
=============

Entries, what guests may write, and leaks, on Intel hosts.
"""
