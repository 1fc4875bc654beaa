"""Changes to the host
===================

What a run changes and undoes: the journal, its guardian, the lock, the knob, the toggler.
"""
