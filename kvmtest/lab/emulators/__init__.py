"""Emulators
=========

What the lab asks of an emulator, and those that answer.
"""
