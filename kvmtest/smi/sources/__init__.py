"""The sources
===========

A module a source, whose ``find`` returns the source on this machine or says what it lacks;
``efivarfs`` is where those that work through UEFI variables find them.
"""
