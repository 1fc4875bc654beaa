"""Runs inside a lab's machine: raises host SMIs by the command port while a guest runs.

Every SMI that was sent must be counted, all of them on the guest's CPU, and the guest must go on.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, "/package")

from kvmtest.guests import Spinning, commands, long_guest
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.kvm import System
from kvmtest.missing import Missing
from kvmtest.smi import Triggered, choose, counts

SMIS, RATE_HZ = 40, 20.0


def main() -> None:
    """Do it; ends with a line that says what is wrong."""
    machine = Machine(Tree(Path("/")))
    source, count = choose(machine, "apm-port"), counts(machine)
    if not isinstance(source, Triggered) or isinstance(count, Missing):
        sys.exit(f"nothing to raise and count SMIs with: {source}, {count}")
    with System() as system, system.create_vm() as vm:
        vcpu = vm.create_vcpu()
        vcpu.set_cpuid(system.get_supported_cpuid())
        guest = long_guest(vm, vcpu)
        guest.boot()
        before = count.read_all()
        with Spinning(guest, 0) as spinning:
            with source.raising(RATE_HZ) as raising:
                while len(raising.triggers) < SMIS:
                    time.sleep(0.01)
            is_running = spinning.is_running
        after = count.read_all()
        spinning.release()
        (done,) = guest.execute(commands.nop())
    counted = {cpu: count.increase(before[cpu], after[cpu]) for cpu in after}
    expected = {cpu: len(raising.triggers) if cpu == 0 else 0 for cpu in after}
    if counted != expected or not is_running or done.fault:
        sys.exit(f"sent {len(raising.triggers)}, counted {counted}, guest runs: {is_running}")


main()
