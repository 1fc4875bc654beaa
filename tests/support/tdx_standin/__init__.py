"""A stand-in for KVM's TDX, at the system call.

A tracer answers the system calls of a traced kvmtest: it stands in for the files of a TDX host and
for the ioctls of a TD, with KVM's order and errors, and runs the TD's code on a VM of the machine's
own /dev/kvm. What it knows of the interface comes from the kernel's documentation and source, and
none of it from kvmtest, which it is to test.

It is here and not in the package: nobody but the tests has a use for it.

``td``, ``tdcall``, ``measurement`` and ``module`` are pure: values in, values or a refusal out.
"""
