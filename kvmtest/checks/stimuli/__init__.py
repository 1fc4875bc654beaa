"""Stimuli
=======

Actions on a vCPU before an entry or a window is observed. Each is written once, for the guest of a
check and the guests of the leak walk alike.
"""
