"""Any x86 host
============

any.*: what holds on Intel and AMD alike. A module for each property.
"""
