"""Heading
=======

What tells one run's report from those of other machines and kernels, as every report says it.
"""

from collections.abc import Mapping
from typing import Any

from kvmtest.evidence import Evidence

__all__ = ["cpu_name", "facts", "hostname_of", "machine_words"]

_VENDORS = {"intel": "Intel", "amd": "AMD"}


def machine_words(evidence: Evidence) -> str:
    """Return what decided the verdicts: hardware, or an emulated machine in words that say so."""
    lab = evidence.machine.get("lab")
    if not lab:
        return evidence.machine_name
    cpus = _mapping(lab.get("details")).get("cpus")
    count = f", {cpus} CPU{'' if cpus == 1 else 's'}" if cpus else ""
    vendor = _vendor(evidence)
    kind = f"EMULATED {vendor}" if vendor else "EMULATED"
    emulator = f"{lab['emulator']} {lab['version']}{count}"
    return f"{kind} ({emulator}): proves the kernel's code, not hardware"


def cpu_name(evidence: Evidence) -> str:
    """Return the CPU's model; of an emulated one the emulator's name for it too."""
    name = str(_cpu(evidence).get("model_name") or "unknown CPU")
    lab = evidence.machine.get("lab")
    return f"{lab['model']}, which calls itself {name}" if lab else name


def hostname_of(evidence: Evidence) -> str:
    """Return the host's name; that of an emulated machine's host. Empty where it is not known."""
    return str(evidence.machine.get("hostname") or "")


def facts(evidence: Evidence, hostname: str = "") -> dict[str, str]:
    """Return what a report says of the run besides the machine, by name; only what is known.

    ``hostname`` is that of evidence that has none of its own.
    """
    known = {
        "machine.kind": evidence.machine.get("kind"),
        "hostname": hostname_of(evidence) or hostname,
        "kernel": evidence.kernel.get("release") or evidence.kernel.get("missing"),
        "cpu.vendor": _vendor(evidence),
        "cpu.model": cpu_name(evidence),
        "virtualisation": evidence.machine.get("virtualisation"),
        "kvmtest": evidence.kvmtest.get("version"),
        "started": evidence.kvmtest.get("started"),
        "exit status": evidence.exit_status,
    }
    return {name: str(fact) for name, fact in known.items() if fact not in (None, "")}


def _vendor(evidence: Evidence) -> str:
    vendor = str(_cpu(evidence).get("vendor") or "")
    return _VENDORS.get(vendor, vendor)


def _cpu(evidence: Evidence) -> Mapping[str, Any]:
    return _mapping(evidence.machine.get("cpu"))


def _mapping(fact: Any) -> Mapping[str, Any]:
    return fact if isinstance(fact, dict) else {}
