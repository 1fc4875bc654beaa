"""The table of reproducers
========================

What can be shown to a kernel's maintainers by one C program, and what the program is made of.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import UsageError
from kvmtest.findings import findings
from kvmtest.properties import find as find_property

__all__ = ["REPRODUCERS", "Reproducer", "find"]

_EMULATES = "KVM must emulate what vm86 mode can't run: kvm_intel.unrestricted_guest must be 0."
_WRITES = (
    "freeze_on_smi and kvm_intel.dump_invalid_vmcs are written, and put back after any end, by "
    "signals too. The module msr must be loaded."
)
_NESTED = "kvm_intel.nested must be 1, as it is by default."


@dataclass(frozen=True, slots=True)
class Reproducer:
    """A program that shows a finding or a property.

    ``name`` is the finding's or the property's, and that of the file in programs/. ``claims`` are
    what the program tells of the kernel, in this order. ``parts`` are the files in parts/ before
    the program, each using those before it. ``needs`` says what it needs of the host or does to it.
    """

    name: str
    claims: tuple[str, ...]
    parts: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        """The finding's title, or the property's claim."""
        return findings().get(self.name) or find_property(self.name).claim

    @property
    def about(self) -> str:
        """What the program shows, and what says more about it."""
        if self.name in findings():
            return f"{self.title}: see kvmtest finding {self.name}."
        source = find_property(self.name).source
        return f"The property {self.name} of kvmtest: {self.title}. Its source is {source}."


_TOGGLED = "the entry after freeze_on_smi went to {} has bit 14 {} in its VMCS"

REPRODUCERS: tuple[Reproducer, ...] = (
    Reproducer(
        "lost-update-while-emulating",
        (
            "freeze_on_smi=1 that KVM first sees as it emulates is in the VMCS of the next entry",
            "freeze_on_smi=0 that KVM first sees as it emulates is in the VMCS of the next entry",
        ),
        ("ktap", "setting", "guest", "emulation", "host", "dump"),
        (_EMULATES, _WRITES),
    ),
    Reproducer(
        "lost-dr6-while-emulating",
        ("the guest's DR6 survives emulation after a MOV from DR6 has exited",),
        ("ktap", "setting", "guest", "emulation"),
        (_EMULATES,),
    ),
    Reproducer(
        "bit-14-in-vmcs12-refused",
        ("KVM_SET_NESTED_STATE takes a vmcs12 with bit 14 in guest_ia32_debugctl, and L2 runs",),
        ("ktap", "guest", "vmcs12"),
        (_NESTED,),
    ),
    Reproducer(
        "vmcs12-overwritten-after-restore",
        ("KVM_SET_NESTED_STATE on a vCPU in L2 keeps the vmcs12 that it sets",),
        ("ktap", "guest", "vmcs12"),
        (_NESTED,),
    ),
    Reproducer(
        "vmx.entry.toggled",
        (_TOGGLED.format(1, "set"), _TOGGLED.format(0, "clear"), _TOGGLED.format(1, "set")),
        ("ktap", "setting", "guest", "host", "dump"),
        (_WRITES,),
    ),
    Reproducer(
        "nvmx.vmcs12.freeze-bit",
        (
            "with the quirk KVM takes bit 14 in vmcs12, and L2 runs",
            "with the quirk disabled KVM refuses bit 14 in vmcs12",
        ),
        ("ktap", "guest", "vmcs12"),
        (_NESTED, "The host's bit in L2 is not looked at."),
    ),
)


def find(name: str) -> Reproducer:
    """Return the reproducer of a finding, by its name or path, or of a property.

    Raises UsageError with the names of all for another.
    """
    known = {each.name: each for each in REPRODUCERS}
    stem = Path(name).name.removesuffix(".md")
    if stem in known:
        return known[stem]
    near = difflib.get_close_matches(stem, known, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"no reproducer of {name}; {advice}there are {', '.join(known)}")
