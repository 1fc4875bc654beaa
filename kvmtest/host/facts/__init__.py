"""What there is
=============

Facts of the host, a module per subject: its processors, kernel, KVM module, MSRs, PMUs, VMs.
"""
