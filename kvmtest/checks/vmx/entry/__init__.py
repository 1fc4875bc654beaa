"""VM-entries on Intel
===================

vmx.entry.*: whether an entry carries the host's bit. A module for each property.
"""
