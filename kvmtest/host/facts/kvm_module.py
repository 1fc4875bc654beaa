"""The KVM module in use
=====================

Which vendor module (kvm_intel, kvm_amd, kvm_pvm, …) runs KVM, and with which parameters, or why
none does.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kvmtest.host.facts.cpu import Cpu, cpuid
from kvmtest.host.facts.kernel import read_config
from kvmtest.host.facts.modules import Place, how_to_load, whereabouts
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing

__all__ = ["KvmModule"]

# The CPU flag that each vendor module needs; kvm_pvm and others need none.
_NEEDS = {"kvm_intel": "vmx", "kvm_amd": "svm"}
_MODULE_OF_VENDOR = {
    "intel": "kvm_intel",
    "CentaurHauls": "kvm_intel",
    "Shanghai": "kvm_intel",
    "amd": "kvm_amd",
    "HygonGenuine": "kvm_amd",
}

# Leaf and bit of ECX where CPUID shows a feature even if the kernel dropped its flag.
_CPUID_BIT = {"vmx": (1, 5), "svm": (0x80000001, 2)}

# Exists once KVM has registered its device (kvm_init, virt/kvm/kvm_main.c), in containers too.
_DEVICE = "/sys/class/misc/kvm"

# What modprobe can take as a parameter's value.
_WORD = re.compile(r"[\w-]+", re.ASCII)

# How firmware setups call virtualisation; for other vendors the flag's name serves.
_FIRMWARE_NAME = {("vmx", "intel"): "Intel VT-x", ("svm", "amd"): "AMD SVM"}


@dataclass(frozen=True, slots=True)
class KvmModule:
    """The vendor module that runs KVM here.

    ``parameters`` are its own and ``kvm_parameters`` those of module kvm, as text; None marks one
    that this process may not read. ``users`` is the module's reference count, about one per VM;
    None where the kernel keeps none (module built in, or no CONFIG_MODULE_UNLOAD).
    """

    name: str
    built_in: bool
    parameters: Mapping[str, str | None]
    kvm_parameters: Mapping[str, str | None]
    users: int | None

    @property
    def settable(self) -> dict[str, str]:
        """The parameters whose text modprobe takes when it loads the module again.

        Unreadable ones are left out, and texts that are no values, such as vmentry_l1d_flush's
        "not required".
        """
        values = self.parameters.items()
        return {name: text for name, text in values if text and _WORD.fullmatch(text)}

    @classmethod
    def of(cls, tree: Tree, cpu: Cpu | Missing | None = None) -> "KvmModule | Missing":
        """Find the vendor module in use; pass ``cpu`` where it is already known."""
        if cpu is None:
            cpu = Cpu.of(tree)
        flags = frozenset() if isinstance(cpu, Missing) else cpu.features
        name = _in_use(tree, flags)
        if name is None:
            return cpu if isinstance(cpu, Missing) else _why_none(tree, cpu)
        built_in = not _is_loaded(tree, name)
        # A module stays loaded only if it set the CPU up; a built-in one is shown even where it
        # failed. Where it did not there is a device, which a container's /dev may lack.
        if built_in and not any(map(tree.exists, ("/dev/kvm", _DEVICE))):
            return Missing(
                f"{name} is built into the kernel but made no /dev/kvm: it refused this machine",
                f"read what the kernel log says of {name} (often: disabled in the firmware setup)",
            )
        users = tree.read(f"/sys/module/{name}/refcnt") or ""
        return cls(
            name=name,
            built_in=built_in,
            parameters=_parameters(tree, name),
            kvm_parameters=_parameters(tree, "kvm"),
            users=int(users) if users.isascii() and users.isdigit() else None,
        )

    def enabled(self, parameter: str) -> bool | Missing:
        """Tell whether the on/off ``parameter`` (nested, ept, unrestricted_guest, …) is on.

        The vendor module's own parameters come before those of module kvm.
        """
        for module, parameters in ((self.name, self.parameters), ("kvm", self.kvm_parameters)):
            if parameter not in parameters:
                continue
            value = parameters[parameter]
            if value is None:
                return Missing(f"parameter {parameter} of {module} can't be read", "run as root")
            if value not in {"Y", "N", "1", "0"}:
                return Missing(f"parameter {parameter} of {module} is {value!r}, not on or off")
            return value in {"Y", "1"}
        return Missing(f"{self.name} has no parameter {parameter}")

    def how_to_set(self, setting: str) -> str:
        """Return how a parameter gets a value, such as "nested=1", in the module that has it."""
        parameter = setting.partition("=")[0]
        is_kvms = parameter not in self.parameters and parameter in self.kvm_parameters
        name = "kvm" if is_kvms else self.name
        return f"boot with {name}.{setting}" if self.built_in else f"load {name} with {setting}"


def _in_use(tree: Tree, flags: frozenset[str]) -> str | None:
    """Return the vendor module that runs KVM, or None.

    Module kvm accepts one vendor module at a time, so a loaded one is in use. Built-in ones are all
    in /sys/module: the CPU's flags tell which of them can have started.
    """
    names = [path.name for path in tree.glob("/sys/module/kvm_*") if path.is_dir()]
    for name in names:
        if _is_loaded(tree, name):
            return name
    for name in names:
        if _NEEDS.get(name) in flags:
            return name
    return next((name for name in names if name not in _NEEDS), None)


def _is_loaded(tree: Tree, name: str) -> bool:
    """Tell whether ``name`` is a loaded module: only those have an initstate."""
    return tree.exists(f"/sys/module/{name}/initstate")


def _parameters(tree: Tree, module: str) -> dict[str, str | None]:
    """Return the parameters of ``module``, None for each that can't be read."""
    folder = tree.path(f"/sys/module/{module}/parameters")
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return {}
    return {name: tree.read(f"/sys/module/{module}/parameters/{name}") for name in names}


def _why_none(tree: Tree, cpu: Cpu) -> Missing:
    """Return why no vendor module is in use on ``cpu``."""
    module = _MODULE_OF_VENDOR.get(cpu.vendor)
    if module is None:
        return Missing(f"KVM has no vendor module for CPUs of {cpu.vendor}")
    flag = _NEEDS[module]
    if flag not in cpu.features:
        return _why_no_flag(tree, cpu, flag)
    return _why_not_built(tree, module) or _why_not_loaded(tree, module, flag)


def _why_not_built(tree: Tree, module: str) -> Missing | None:
    """Return why this kernel has no ``module``, or None where it may have one."""
    release = tree.read("/proc/sys/kernel/osrelease") or ""
    config = read_config(tree, release)
    where = whereabouts(tree, module)
    if not isinstance(config, Missing) and where in (Place.UNKNOWN, Place.NOT_SHIPPED):
        y = "" if config.get("MODULES") else "=y"
        for option in ("KVM", module.upper()):
            if config.get(option) is None:
                return Missing(
                    f"this kernel ({release}) is built without CONFIG_{option}",
                    f"boot a kernel built with CONFIG_{module.upper()}{y}",
                )
    is_y = not isinstance(config, Missing) and config.get(module.upper()) == "y"
    if where is Place.BUILT_IN or is_y:
        return Missing(
            f"{module} is built into the kernel, but /sys/module does not show it", "mount /sys"
        )
    if where is Place.NOT_SHIPPED:
        return Missing(
            f"this kernel ({release}) has no KVM for this CPU: no {module} built in or installed",
            f"boot a kernel with CONFIG_{module.upper()} or install its modules",
        )
    return None


def _why_not_loaded(tree: Tree, module: str, flag: str) -> Missing:
    """Say that an installed ``module`` is not loaded, and how to load it."""
    load = how_to_load(tree, module)
    if not tree.exists("/sys/module/kvm"):
        what = f"KVM is not loaded (neither kvm nor {module}), though the CPU has {flag}"
        return Missing(what, load)
    return Missing(f"{module} is not loaded, though kvm is and the CPU has {flag}", load)


def _why_no_flag(tree: Tree, cpu: Cpu, flag: str) -> Missing:
    """Return why the kernel shows no virtualisation ``flag`` for ``cpu``."""
    name = _FIRMWARE_NAME.get((flag, cpu.vendor), f"virtualisation ({flag.upper()})")
    turn_on = f"turn on {name} in the firmware setup"
    if _cpuid_has(tree, flag):
        return Missing(
            f"the CPU has {flag}, but the firmware or the kernel's command line disables it",
            turn_on,
        )
    if cpu.under_hypervisor:
        return Missing(
            f"the hypervisor above gives this virtual machine no {flag}",
            "turn on nested virtualisation for it, or run on bare metal",
        )
    return Missing(
        f"the CPU shows no {flag}: it has none, or the firmware disables it",
        turn_on,
    )


def _cpuid_has(tree: Tree, flag: str) -> bool:
    """Tell whether CPUID shows ``flag``; False also where CPUID can't be read.

    The kernel drops a feature's flag where the firmware disables the feature; CPUID keeps it.
    """
    leaf, bit = _CPUID_BIT[flag]
    registers = cpuid(tree, leaf)
    return not isinstance(registers, Missing) and bool(registers.ecx >> bit & 1)
