"""Facts of the host
=================

What is there: CPU, kernel, KVM module, MSRs, PMUs, the freeze knob, security, tasks, VMMs, other
hypervisors' processes, firmware tables. Nothing here changes the host, or imports ``observe`` or
``changes``.
"""
