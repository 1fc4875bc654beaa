"""The host
========

The machine under test: its facts, and the journal of every change to it.
"""
