"""Changes to the host
===================

What a run changes and undoes. The ``journal`` records the undo of every change first; the
``guardian`` undoes what a killed run left; the ``lock`` admits one run at a time. What is changed
often has a module: the freeze knob, kprobes, KVM's tracepoints, CPU hotplug, clear_warn_once, MSRs;
the ``toggler`` writes a file that the journal has recorded. Imports ``facts`` and ``observe``.
"""
