"""Leak experiments
================

Windows of guests with and without SMIs, what counts in them, and the walk that all checks share.
"""
