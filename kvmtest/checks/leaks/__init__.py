"""Leak experiments
================

Windows of guests with and without SMIs, their counters, and the walk that all checks share.
"""
