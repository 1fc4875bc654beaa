"""Kernel options
==============

What the lab needs of a kernel's configuration, for kernels that somebody built: distributions' have
all of it. docs/lab.config sets the options of this table, and those that they depend on.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.kernel import BootableKernel

__all__ = ["OPTIONS", "Option", "lacking", "require"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option that the lab needs, and what needs it."""

    name: str
    """Without ``CONFIG_``."""

    why: str
    """What of the machine, or of kvmtest, needs it."""

    is_vital: bool = False
    """Whether nothing runs without it."""

    cpus: int = 1
    """The number of CPUs of a machine from which on it matters."""

    is_set: bool = True
    """Whether it must be set (y or m), or must not."""


OPTIONS = (
    Option("64BIT", "kvmtest", is_vital=True),
    Option("BLK_DEV_INITRD", "the root file system", is_vital=True),
    Option("BINFMT_ELF", "all programs", is_vital=True),
    Option("BINFMT_SCRIPT", "/init", is_vital=True),
    Option("DEVTMPFS", "/dev", is_vital=True),
    Option("PROC_FS", "/proc", is_vital=True),
    Option("SYSFS", "/sys", is_vital=True),
    Option("TTY", "the console", is_vital=True),
    Option("SERIAL_8250", "the console", is_vital=True),
    Option("SERIAL_8250_CONSOLE", "the console", is_vital=True),
    Option("X86_IOPL_IOPERM", "the way in and out of the machine", is_vital=True),
    Option("FUTEX", "Python", is_vital=True),
    Option("FILE_LOCKING", "the lock of a run", is_vital=True),
    Option("KVM", "guests", is_vital=True),
    Option("X86_MSR", "the CPU's MSRs", is_vital=True),
    Option("MODULE_SIG_FORCE", "modules, which come unsigned", is_vital=True, is_set=False),
    Option("PRINTK", "the witnesses vmcs and klog"),
    Option("BUG", "WARNs, for any.no-warnings"),
    Option("KPROBE_EVENTS", "the witness runflags"),
    Option("DEBUG_INFO_BTF", "kernel.fix-present and the witness runflags"),
    Option("DEVPORT", "the witness leak, else disturbed by the console's interrupts"),
    Option("MODULES", "--modules, --kvm-parameter and vmx.entry.after-emulation"),
    Option("MODULE_UNLOAD", "--modules, --kvm-parameter and vmx.entry.after-emulation"),
    Option("UNIX", "vmx.entry.after-emulation and vmx.entry.schedules"),
    Option("SECCOMP_FILTER", "vmx.entry.after-emulation and vmx.entry.schedules"),
    Option("SMP", "the second CPU", cpus=2),
    Option("HOTPLUG_CPU", "host.hotplug", cpus=2),
)


def lacking(options: Mapping[str, str], vendor: str, cpus: int) -> list[Option]:
    """Return what is not as a machine with that vendor module and so many CPUs needs it.

    ``options`` are those that a kernel was built with (kvmtest.kernels.configuration).
    """
    table = (*OPTIONS, Option(vendor.upper(), "guests", is_vital=True))
    return [
        option
        for option in table
        if option.cpus <= cpus and option.is_set != (options.get(option.name, "n") != "n")
    ]


def require(kernel: BootableKernel, vendor: str, cpus: int, on_step: Callable[[str], None]) -> None:
    """Raise EnvironmentUnfit where a kernel lacks a vital option; say which others it lacks.

    A kernel that does not tell its options (``kernel.options``) passes.
    """
    if kernel.options is None:
        return
    missing = lacking(kernel.options, vendor, cpus)
    vital = [option for option in missing if option.is_vital]
    if vital:
        raise EnvironmentUnfit(
            f"{kernel.origin} can't run in the lab: {_told(vital)}; {_remedy(vital)}"
        )
    if missing:
        on_step(f"this kernel does not decide all: {_told(missing)}; {_remedy(missing)}")


def _told(options: Iterable[Option]) -> str:
    """Say what is wrong: ``it is built without CONFIG_A (purpose), with CONFIG_B (purpose)``."""
    by_way = {
        way: [f"CONFIG_{o.name} ({o.why})" for o in options if o.is_set == is_set]
        for is_set, way in ((True, "without"), (False, "with"))
    }
    return "it is built " + ", ".join(
        f"{way} {', '.join(names)}" for way, names in by_way.items() if names
    )


def _remedy(options: Iterable[Option]) -> str:
    changes = " ".join(f"{'-e' if o.is_set else '-d'} {o.name}" for o in options)
    return f"scripts/config {changes}, make olddefconfig, and build it again"
