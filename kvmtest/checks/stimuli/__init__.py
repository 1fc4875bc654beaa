"""Stimuli
=======

What vCPUs are put through before an entry or a window is looked at: each written once, for the
guest of a check and for the guests of the leak walk alike.
"""
