"""Schedules on a real KVM
=======================

Two vCPUs in processes of their own, stopped at exact points, and what their VMCSs say afterwards.
"""
