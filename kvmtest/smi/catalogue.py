"""Catalogue of SMI sources
========================

The table of all sources, the gentlest first, and which of them may be used unasked.
"""

from collections.abc import Callable, Mapping

from kvmtest.errors import UsageError
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

from .source import Source
from .sources import (
    apm_port,
    command,
    dcdbas,
    dell_smm_hwmon,
    efivar,
    efivar_refused,
    efivar_write,
    efivarfs_statfs,
    lab,
    passive,
)

__all__ = ["ONLY_AFTER", "OPT_IN", "SOURCES", "all_sources", "candidates", "choose", "split"]

#: What finds each source on a machine, the gentlest first; takes an argument, "" for none.
SOURCES: Mapping[str, Callable[[Machine, str], Source | Missing]] = {
    "passive": passive.find,
    "lab": lab.find,
    "efivar": efivar.find,
    "efivarfs-statfs": efivarfs_statfs.find,
    "dell-smm-hwmon": dell_smm_hwmon.find,
    "efivar-refused": efivar_refused.find,
    "command": command.find,
    "efivar-write": efivar_write.find,
    "dcdbas": dcdbas.find,
    "apm-port": apm_port.find,
}

#: Opt-in sources: they may harm the machine, or never end.
OPT_IN = frozenset({"passive", "command", "efivar-write", "dcdbas", "apm-port"})

#: Sources that are tried unasked only after another one has proved itself: one that asks the
#: firmware to store something comes after one that only reads.
ONLY_AFTER: Mapping[str, str] = {"efivar-refused": "efivarfs-statfs"}


def split(wanted: str) -> tuple[str, str]:
    """Split what the user wrote, NAME or NAME:ARGUMENT, into a source's name and its argument.

    The argument is the byte of ``apm-port:0x90``, the command of ``command:CMD``, the variable of
    ``efivar:NAME-GUID`` and ``efivar-write:NAME-GUID``. Raises UsageError for a name that no source
    has.
    """
    name, _, argument = wanted.partition(":")
    if name not in SOURCES:
        raise UsageError(f"there is no SMI source {name!r}; choose one of {', '.join(SOURCES)}")
    return name, argument


def all_sources(machine: Machine) -> dict[str, Source | Missing]:
    """Return each source by name, or why this machine has none; no SMI is raised."""
    return {name: find(machine, "") for name, find in SOURCES.items()}


def choose(machine: Machine, wanted: str | None) -> Source | Missing:
    """Return the ``wanted`` source (see :func:`split`), or the gentlest one that looks usable.

    Only a count proves that it works: see :func:`kvmtest.smi.prove`. Raises UsageError.
    """
    found = candidates(machine, wanted)
    return found if isinstance(found, Missing) else found[0]


def candidates(machine: Machine, wanted: str | None) -> list[Source] | Missing:
    """Return the ``wanted`` source, or all that look usable and are not opt-in.

    The gentlest comes first. Raises UsageError.
    """
    if wanted is not None:
        name, argument = split(wanted)
        source = SOURCES[name](machine, argument)
        return source if isinstance(source, Missing) else [source]
    found = {name: find(machine, "") for name, find in SOURCES.items() if name not in OPT_IN}
    usable = [source for source in found.values() if not isinstance(source, Missing)]
    # Opt-in sources are looked for only where the answer has to name them.
    return usable or _none_of(found | {name: SOURCES[name](machine, "") for name in OPT_IN})


def _none_of(found: Mapping[str, Source | Missing]) -> Missing:
    """Say why there is no source; sources that lack the same thing are named together."""
    lacking: dict[str, list[str]] = {}
    by_name: list[str] = []
    for name in SOURCES:
        source = found[name]
        if isinstance(source, Missing):
            lacking.setdefault(source.what, []).append(name)
        else:
            by_name.append(name)
    if by_name:
        lacking["to be asked for by name"] = by_name
    obstacles = "; ".join(f"{', '.join(names)}: {what}" for what, names in lacking.items())
    remedy = " or ".join(f"--smi-source {name}" for name in by_name)
    return Missing(
        f"no SMI source ({obstacles})",
        f"use {remedy}" if by_name else "use a machine whose firmware has an SMI handler",
    )
