"""The lab
=======

Emulated machines, and the stock kernels that they boot.
"""
