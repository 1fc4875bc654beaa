"""Any x86 host
============

any.*: properties that hold on Intel and AMD alike. Each has a module.
"""
