"""Reports
=======

The same evidence for a terminal, for KTAP readers and for CI systems.
"""
