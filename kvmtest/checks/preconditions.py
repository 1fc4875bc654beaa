"""Preconditions
=============

What a property or a witness needs of the machine, as a table of questions; the answer to each is
what is missing, or None. ``kvmtest doctor``, SKIP reasons and ``--require feature:NAME`` share it.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from kvmtest import __version__
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.facts.census import Census
from kvmtest.host.facts.hotplug import removable, switch
from kvmtest.host.facts.kernel import Kernel
from kvmtest.host.facts.kvm_module import KvmModule
from kvmtest.host.facts.lab import VARIABLE, LabFacts
from kvmtest.host.facts.mediated_pmu import PARAMETER
from kvmtest.host.facts.msr import (
    IA32_PERF_CAPABILITIES,
    IA32_PERF_CAPABILITIES_FREEZE_WHILE_SMM,
    MsrError,
)
from kvmtest.host.facts.perf_pmus import is_hybrid
from kvmtest.host.facts.tracefs import TRACING, why_no_kprobes
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog
from kvmtest.kvm import KvmUnavailable, System
from kvmtest.missing import Missing
from kvmtest.properties import WITNESSES, Property
from kvmtest.smi import choose

from .kvm_device import kvm, offers_quirk
from .tdx_host import tdx

__all__ = ["PRECONDITIONS", "answer", "check_lab", "lacking", "witness_lacks"]

NO_CHECK = Missing(f"kvmtest {__version__} has no check for it yet", "use a later version")


NO_LAB = "run on a real machine"


def _vendor_module(wanted: str, hosts: str) -> Callable[[Machine], Missing | None]:
    def precondition(machine: Machine) -> Missing | None:
        module = machine.kvm_module
        if isinstance(module, Missing):
            return module
        if module.name == wanted:
            return None
        return Missing(f"KVM here is {module.name}, not {wanted}", f"run on {hosts}")

    precondition.__doc__ = f"KVM here is {wanted}."
    return precondition


def _with(machine: Machine, parameter: str) -> KvmModule | Missing:
    """Return the vendor module, whose on/off parameter can be read."""
    module = machine.kvm_module
    if isinstance(module, Missing):
        return module
    on = module.enabled(parameter)
    if not isinstance(on, Missing):
        return module
    return on if on.remedy else Missing(on.what, "run on a host with kvm_intel")


def nested(machine: Machine) -> Missing | None:
    """Nested virtualisation is on."""
    module = _with(machine, "nested")
    if isinstance(module, Missing):
        return module
    if module.enabled("nested"):
        return None
    return Missing("nested virtualisation is off", module.how_to_set("nested=1"))


def vmcs12_quirk(machine: Machine) -> Missing | None:
    """Userspace can forbid L1 to set bit 14 in vmcs12; where there is no KVM, others say so."""
    if kvm(machine):
        return None
    with suppress(KvmUnavailable), System() as system:
        if offers_quirk(system):
            return None
    what = "this KVM has no quirk KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM"
    return Missing(what, "boot Linux 7.0, 6.18.19 or 6.12.78, or a later one of these series")


def no_unrestricted_guest(machine: Machine) -> Missing | None:
    """KVM emulates real mode."""
    module = _with(machine, "unrestricted_guest")
    if isinstance(module, Missing):
        return module
    if not module.enabled("unrestricted_guest"):
        return None
    reload = "" if module.built_in else "use --reload-modules, or "
    remedy = f"{reload}{module.how_to_set('unrestricted_guest=0')}"
    return Missing("unrestricted guest is on, so KVM does not emulate", remedy)


def knob(machine: Machine) -> Missing | None:
    """There is a freeze_on_smi knob, and it can be written."""
    knob = machine.knob
    if isinstance(knob, Missing):
        return knob
    path = machine.tree.path(knob.paths[0])
    if os.access(path, os.W_OK, effective_ids=True):
        return None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        what = f"{knob.paths[0]} can't be written: /sys is mounted read-only, as in a container"
        return Missing(what, "run outside the container, or start it with --privileged")
    return Missing(f"no permission to write {knob.paths[0]}", "run as root")


def msr(machine: Machine) -> Missing | None:
    """The host's MSRs can be read."""
    return machine.msr if isinstance(machine.msr, Missing) else None


def freeze_bit(machine: Machine) -> Missing | None:
    """Every CPU says that it has FREEZE_WHILE_SMM."""
    access = machine.msr
    if isinstance(access, Missing):
        return access
    try:
        capabilities = access.read_all(IA32_PERF_CAPABILITIES)
    except MsrError:
        return Missing("the CPU has no IA32_PERF_CAPABILITIES", "run on bare metal, on Intel")
    if all(value & IA32_PERF_CAPABILITIES_FREEZE_WHILE_SMM for value in capabilities.values()):
        return None
    cpu = machine.cpu
    above = not isinstance(cpu, Missing) and cpu.under_hypervisor
    return Missing(
        "IA32_PERF_CAPABILITIES bit 12 is 0: the "
        f"{'hypervisor above' if above else 'CPU'} can't freeze in SMM",
        "run on bare metal, on Intel" if above else "run on a newer Intel CPU",
    )


def pmu(machine: Machine) -> Missing | None:
    """There is a hardware PMU."""
    return machine.pmus if isinstance(machine.pmus, Missing) else None


def guest_pmu(machine: Machine) -> Missing | None:
    """KVM gives guests a PMU."""
    module = machine.kvm_module
    if isinstance(module, Missing):
        return module
    # KVM itself turns the parameter off on hybrid CPUs and where perf drives no PMU
    # (kvm_init_pmu_capability, arch/x86/kvm/pmu.c). Linux 5.10 has no such parameter: there Intel's
    # guests always get a PMU.
    on = module.enabled("enable_pmu") if "enable_pmu" in module.kvm_parameters else True
    if isinstance(on, Missing):
        return on
    off, pmus = "KVM gives guests no PMU (parameter kvm.enable_pmu is N)", machine.pmus
    if not isinstance(pmus, Missing) and is_hybrid(machine.tree, pmus):
        # Before Linux kernel commit 4d7404e5ee00 ("KVM: x86/pmu: Disable vPMU support on hybrid
        # CPUs (host PMUs)") (in v6.2), it is the PMU of one kind of core, on every core.
        unfit = "KVM gives guests no PMU that fits a hybrid CPU"
        what = unfit if on else f"{off}, as on every hybrid CPU"
        return Missing(what, "run on a CPU with cores of one kind")
    if on:
        return None
    if isinstance(pmus, Missing):
        return Missing(f"{off}: {pmus.what}", pmus.remedy)
    if machine.tree.exists("/sys/module/kvm/initstate"):
        return Missing(off, "unload kvm, and load it with enable_pmu=1 (look in /etc/modprobe.d)")
    return Missing(off, "boot with kvm.enable_pmu=1")


def guest_events(machine: Machine) -> Missing | None:
    """Events that count guests keep nobody else from starting a VM.

    With a mediated PMU they would: KVM refuses a VM's first vCPU while one is open.
    """
    if machine.mediated_pmu is not True or machine.allow_other_vms:
        return None
    # Not the machine's census: others may have come since.
    census = Census.of(machine.tree)
    others = [*map(str, census.processes), *(f"unseen: {spot.what}" for spot in census.blind_spots)]
    if not others:
        return None
    return Missing(
        "KVM's PMU is mediated, so that nobody can start a VM with a PMU while kvmtest counts "
        f"guests, and others use KVM, or may: {'; '.join(others)}",
        f"stop them, use --allow-other-vms, or load the KVM module with {PARAMETER}=0",
    )


def second_cpu(machine: Machine) -> Missing | None:
    """Two CPUs are online."""
    cpu = machine.cpu
    if isinstance(cpu, Missing):
        return cpu
    if len(cpu.online) > 1:
        return None
    if offline := machine.tree.glob("/sys/devices/system/cpu/cpu[0-9]*/online"):
        file = f"/sys/devices/system/cpu/{offline[-1].parent.name}/online"
        return Missing("only one CPU is online", f"bring another online: echo 1 > {file}")
    return Missing("only one CPU is online", "use a machine with two")


def cpu_hotplug(machine: Machine) -> Missing | None:
    """A CPU can be taken offline, and the user permits it."""
    alone = second_cpu(machine)
    if alone:
        return alone
    cpus = removable(machine.tree)
    if not cpus:
        return Missing("no CPU can be taken offline", "use a kernel with CONFIG_HOTPLUG_CPU")
    if not os.access(machine.tree.path(switch(cpus[-1])), os.W_OK, effective_ids=True):
        return Missing(f"{switch(cpus[-1])} can't be written", "run as root, outside a container")
    if machine.allow_hotplug:
        return None
    return Missing("no CPU may be taken offline unasked", "use --hotplug")


def kvm_stats(machine: Machine) -> Missing | None:
    """KVM counts a vCPU's VM-exits; where there is no KVM, others say so."""
    if kvm(machine):
        return None
    with suppress(KvmUnavailable), System() as system:
        if system.check_extension("KVM_CAP_BINARY_STATS_FD"):
            return None
    return Missing("this KVM has no KVM_CAP_BINARY_STATS_FD", "boot Linux 5.14 or later")


def smi_source(machine: Machine) -> Missing | None:
    """Something here may raise SMIs: what the user named, or else a gentle source."""
    source = choose(machine, machine.smi_source)
    return source if isinstance(source, Missing) else None


def vmcs_dump(machine: Machine) -> Missing | None:
    """KVM can be made to dump a VMCS."""
    module = machine.kvm_module
    if isinstance(module, Missing):
        return module
    if "dump_invalid_vmcs" in module.parameters:
        return None
    where = "boot" if module.name == "kvm_intel" else "run on Intel with"
    what = f"{module.name} has no parameter dump_invalid_vmcs"
    return Missing(what, f"{where} Linux 5.2 or later")


def kernel_log(machine: Machine) -> Missing | None:
    """The kernel log can be read."""
    if not machine.tree.exists("/dev/kmsg"):
        return Missing("there is no /dev/kmsg", "run outside a container, on a kernel with printk")
    if not os.access(machine.tree.path("/dev/kmsg"), os.R_OK, effective_ids=True):
        return Missing("no permission for /dev/kmsg", "run as root")
    # Where kernel.dmesg_restrict is 1, access(2) says yes and open(2) asks for CAP_SYSLOG.
    log = KernelLog.open(machine.tree)
    if isinstance(log, Missing):
        return log
    log.close()
    return None


def kprobes(machine: Machine) -> Missing | None:
    """Kernel probes can be placed."""
    kernel = machine.kernel
    if isinstance(kernel, Kernel) and kernel.config("KPROBE_EVENTS") is None:
        return Missing("this kernel has no kprobes", "boot one built with CONFIG_KPROBE_EVENTS")
    if not machine.tree.exists(TRACING):
        return Missing("this kernel has no tracefs", "boot one built with CONFIG_KPROBE_EVENTS")
    return why_no_kprobes(machine.tree)


def run_flags(machine: Machine) -> Missing | None:
    """KVM hands run flags to vmx_vcpu_run, at a known place."""
    return machine.run_flags if isinstance(machine.run_flags, Missing) else None


def debugctl_switch(machine: Machine) -> Missing | None:
    """The CPU switches DEBUGCTL at VM-entry and VM-exit: always met on hardware.

    A lab may deny it.
    """
    return None


def btf(machine: Machine) -> Missing | None:
    """The kernel's BTF describes KVM."""
    return machine.fix if isinstance(machine.fix, Missing) else None


PRECONDITIONS: dict[str, Callable[[Machine], Missing | None]] = {
    "kvm": kvm,
    "kvm-intel": _vendor_module("kvm_intel", "an Intel host"),
    "kvm-amd": _vendor_module("kvm_amd", "an AMD host"),
    "nested": nested,
    "vmcs12-quirk": vmcs12_quirk,
    "no-unrestricted-guest": no_unrestricted_guest,
    "tdx": tdx,
    "knob": knob,
    "msr": msr,
    "freeze-bit": freeze_bit,
    "pmu": pmu,
    "guest-pmu": guest_pmu,
    "guest-events": guest_events,
    "second-cpu": second_cpu,
    "cpu-hotplug": cpu_hotplug,
    "kvm-stats": kvm_stats,
    "smi-source": smi_source,
    "vmcs-dump": vmcs_dump,
    "kernel-log": kernel_log,
    "kprobes": kprobes,
    "btf": btf,
    "run-flags": run_flags,
    "debugctl-switch": debugctl_switch,
}


#: Preconditions that others on the host may change during a run.
FLEETING = frozenset({"guest-events"})


def check_lab(lab: LabFacts | None) -> None:
    """Raise EnvironmentUnfit if a lab claims to lack a precondition that does not exist."""
    unknown = sorted(set(lab.lacks) - set(PRECONDITIONS)) if lab else []
    if unknown:
        known = ", ".join(PRECONDITIONS)
        raise EnvironmentUnfit(f"{VARIABLE}: lacks {', '.join(unknown)}; it takes {known}")


def answer(machine: Machine, need: str) -> Missing | None:
    """Return what is missing for one precondition, or None where the machine meets it.

    Each is looked up once, but for those in ``FLEETING``.
    """
    lacks = machine.lab.lacks if machine.lab else {}
    if need in lacks:
        return Missing(lacks[need], NO_LAB)
    if need in FLEETING or need not in machine.answers:
        machine.answers[need] = PRECONDITIONS[need](machine)
    return machine.answers[need]


def _unmet(machine: Machine, needs: Iterable[str]) -> dict[str, Missing]:
    answers = ((need, answer(machine, need)) for need in needs)
    return {need: missing for need, missing in answers if missing is not None}


def witness_lacks(machine: Machine, witness: str) -> list[Missing]:
    """Return what keeps a witness from looking here; empty where it can."""
    return list(_unmet(machine, WITNESSES[witness].needs).values())


def unmet_needs(machine: Machine, prop: Property) -> dict[str, Missing]:
    """Return which of the property's own needs are not met here, whoever looks."""
    return {**_unmet(machine, prop.needs), **_vendor_lacks(machine, prop)}


def _vendor_lacks(machine: Machine, prop: Property) -> dict[str, Missing]:
    """Return what is missing of the property's row for this vendor, or that it has none."""
    others = {}
    for vendor, *needs in prop.vendors:
        other = answer(machine, vendor)
        if other is None:
            return _unmet(machine, needs)
        others[vendor] = other
    return others


def blocking(machine: Machine, prop: Property) -> dict[str, Missing]:
    """Return the needs that keep a property from being decided here, with what is missing.

    What a witness lacks counts only where no witness can look.
    """
    by_witness = [_unmet(machine, WITNESSES[witness].needs) for witness in prop.witnesses]
    unmet = unmet_needs(machine, prop)
    if all(by_witness):
        for needs in by_witness:
            unmet |= needs
    return unmet


def lacking(machine: Machine, prop: Property) -> list[Missing]:
    """Return everything that keeps a property from being decided here; empty where it can."""
    # A missing module answers several questions in the same words.
    missing = list(dict.fromkeys(blocking(machine, prop).values()))
    return missing or ([] if prop.has_check else [NO_CHECK])
