"""Checks of SVM
=============

Entries, what guests may write, SMM and leaks, on AMD hosts.
"""
