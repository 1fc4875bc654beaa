"""Module reloads
==============

Reloads the KVM module with the parameters that a property needs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kvmtest.host.facts.census import Census
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

if TYPE_CHECKING:
    from kvmtest.host.changes.journal import Journal

__all__ = ["RELOADS", "reload_for"]

#: By precondition: the module that meets it, and with which parameters.
RELOADS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "no-unrestricted-guest": ("kvm_intel", {"unrestricted_guest": "0"}),
}


def reload_for(need: str, machine: Machine, journal: "Journal") -> Missing | None:
    """Reload the KVM module so that it meets ``need``, or return what prevents that.

    All other parameters keep their values. The journal's undo loads the module as it was.
    """
    from kvmtest.host.changes.journal import JournalError

    name, changed = RELOADS[need]
    module = machine.kvm_module
    if isinstance(module, Missing) or module.name != name:
        return None  # The precondition itself has said so.
    settings = " ".join(f"{name}.{parameter}={value}" for parameter, value in changed.items())
    if module.built_in:
        what = f"{name} is built into the kernel, so that it can't be reloaded"
        return Missing(what, f"boot with {settings}")
    users = Census.of(machine.tree).processes
    if users:
        named = ", ".join(map(str, users))
        why = "others use KVM" if any(u.hypervisor == "KVM" for u in users) else "other VMs run"
        return Missing(f"{name} can't be reloaded: {why}: {named}", "stop them")
    try:
        journal.reload_module(name, module.settable, changed)
    except JournalError as error:
        return Missing(str(error), f"load it yourself, with {settings}")
    machine.forget_kvm()
    return None
