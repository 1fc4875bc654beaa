"""Heading
=======

The lines of every report that identify the run's machine and kernel.
"""

from kvmtest.evidence import Evidence

__all__ = ["cpu_name", "facts", "machine_line", "machine_words", "model_name"]

_VENDORS = {"intel": "Intel", "amd": "AMD"}


def machine_words(evidence: Evidence) -> str:
    """Return the kind of machine in words; an emulated one is called so."""
    lab = evidence.machine.lab
    return _emulated(evidence, f"{lab.emulator} {lab.version}") if lab else evidence.machine_name


def machine_line(evidence: Evidence) -> str:
    """Return the machine in one line: its CPU and what it is, or that it is emulated."""
    lab = evidence.machine.lab
    if lab:
        return _emulated(evidence, lab.emulator)
    # What shows that a machine is virtual stands in brackets behind.
    kind = evidence.machine.virtualisation.partition(" (")[0]
    tree = f"stand-in tree {evidence.machine.root}" if evidence.machine.kind == "stand-in" else ""
    return ", ".join(filter(None, (model_name(evidence), kind, tree, evidence.machine.hostname)))


def _emulated(evidence: Evidence, emulator: str) -> str:
    lab = evidence.machine.lab
    cpus = lab and lab.details and lab.details.cpus
    count = f", {cpus} CPU{'' if cpus == 1 else 's'}" if cpus else ""
    vendor = _vendor(evidence)
    kind = f"EMULATED {vendor}" if vendor else "EMULATED"
    return f"{kind} ({emulator}{count}): proves the kernel's code, not hardware"


def cpu_name(evidence: Evidence) -> str:
    """Return the CPU's own model name; an emulated CPU's has the emulator's name first."""
    name = model_name(evidence)
    lab = evidence.machine.lab
    return f"{lab.model}, which calls itself {name}" if lab else name


def model_name(evidence: Evidence) -> str:
    """Return the CPU's own model name."""
    cpu = evidence.machine.cpu
    return (cpu and cpu.model_name) or "unknown CPU"


def facts(evidence: Evidence, hostname: str = "") -> dict[str, str]:
    """Return the known facts of the run besides the machine, by name.

    ``hostname`` is used if the evidence has none.
    """
    known = {
        "machine.kind": evidence.machine.kind,
        "hostname": evidence.machine.hostname or hostname,
        "kernel": evidence.kernel.release or evidence.kernel.missing,
        "cpu.vendor": _vendor(evidence),
        "cpu.model": cpu_name(evidence),
        "virtualisation": evidence.machine.virtualisation,
        "kvmtest": evidence.kvmtest.version,
        "started": evidence.kvmtest.started,
        "exit status": evidence.exit_status,
    }
    return {name: str(fact) for name, fact in known.items() if fact not in (None, "")}


def _vendor(evidence: Evidence) -> str:
    vendor = (evidence.machine.cpu and evidence.machine.cpu.vendor) or ""
    return _VENDORS.get(vendor, vendor)
