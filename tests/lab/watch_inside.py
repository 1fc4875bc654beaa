"""Runs inside the lab's Intel machine: kvmtest watches another process that runs a guest."""

import json
import os
import select
import subprocess
import sys

sys.path.insert(0, "/package")

from kvmtest.guests import guest_memory, long_guest
from kvmtest.kvm import System

#: Upper bound on a guest's exits, which the watch slows down.
PATIENCE_S = 100


def be_vmm() -> None:
    """Run a guest that leaves guest mode again and again, until standard input ends."""
    with System() as system, system.create_vm() as vm:
        memory = guest_memory(vm)
        vcpu = vm.create_vcpu()
        vcpu.set_cpuid(system.get_supported_cpuid())
        guest = long_guest(vm, vcpu, memory)
        guest.boot()
        os.write(1, b"runs\n")
        while True:
            assert guest.ring(100, timeout=PATIENCE_S).doorbells == 100
            # The watch needs this machine's only CPU, too.
            if select.select([0], [], [], 0.01)[0]:
                break


def watch(*words: str) -> None:
    vmm = subprocess.Popen(
        [sys.executable, __file__, "vmm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert vmm.stdin
    assert vmm.stdout
    assert vmm.stdout.readline() == b"runs\n"
    command = [sys.executable, "-m", "kvmtest", "watch", "--json", "--seconds", "0.1"]
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [*command, "--toggles", "4", *words, str(vmm.pid)],
        capture_output=True,
        text=True,
        env=environment,
    )
    vmm.stdin.close()
    assert vmm.wait() == 0, "the guest's exits are not those that it made"
    assert done.returncode == 0, done.stderr + done.stdout
    seen = json.loads(done.stdout)
    (vcpu,) = seen["vcpus"]
    assert (vcpu["saw"], vcpu["entered"], seen["toggles"]) == (4, 4, 4), done.stdout
    assert vcpu["entry_rate"] > 0
    assert "IO_INSTRUCTION" in vcpu["exits"]
    assert bool(vcpu["runs"]) == (not words)


if sys.argv[1:] == ["vmm"]:
    be_vmm()
else:
    watch()
    watch("--no-stop")
