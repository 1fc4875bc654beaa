"""Observations of the host
========================

What happens there during a run: the kernel log, reports of trouble and VMCS dumps in it, hits of a
probe. The only thing written here is the kernel log's marker line. Imports ``facts`` alone.
"""
