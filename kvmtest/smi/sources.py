"""Which sources of SMIs there are
===============================

The table of all sources, the gentlest first, and which one is used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from kvmtest.errors import UsageError
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

from . import (
    apm_port,
    command,
    dcdbas,
    dell_smm_hwmon,
    efivar,
    efivar_refused,
    efivar_write,
    efivarfs_statfs,
    lab,
)
from .counts import counts
from .source import Periodic, Source

__all__ = ["AFTER", "BY_NAME", "SOURCES", "candidates", "choose", "sources", "split"]

#: Passive waiting for a proof ends after so many seconds; in a lab, whose seconds take long and
#: whose SMIs never come by themselves, sooner.
PATIENCE_S, LAB_PATIENCE_S = 120.0, 1.0


def _passive(machine: Machine, _: str) -> Periodic | Missing:
    """Return the source that waits for what comes by itself, or what is missing."""
    count = counts(machine)
    if isinstance(count, Missing):
        return count
    count.close()
    patience_s = LAB_PATIENCE_S if machine.lab else PATIENCE_S

    @contextmanager
    def switched(_: float, __: bool) -> Iterator[None]:
        yield None

    return Periodic(
        "passive",
        f"waits for SMIs that come by themselves, up to {patience_s:g} s for a proof",
        "nothing",
        fastest_hz=float("inf"),
        switched=switched,
        patience_s=patience_s,
    )


#: How each source is found, the gentlest first: by the machine and an argument, "" for none.
SOURCES: Mapping[str, Callable[[Machine, str], Source | Missing]] = {
    "passive": _passive,
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

#: Sources that nobody gets unasked: they may harm, or may take for ever.
BY_NAME = frozenset({"passive", "command", "efivar-write", "dcdbas", "apm-port"})

#: Sources that nobody gets unasked before another one has proved itself: what asks the firmware to
#: store something comes after what only asks it.
AFTER: Mapping[str, str] = {"efivar-refused": "efivarfs-statfs"}


def split(wanted: str) -> tuple[str, str]:
    """Return name and argument of a source as the user names it, NAME or NAME:ARGUMENT.

    The argument is the byte of ``apm-port:0x90``, the command of ``command:CMD``, the variable of
    ``efivar:NAME-GUID`` and ``efivar-write:NAME-GUID``. Raises UsageError for a name that no source
    has.
    """
    name, _, argument = wanted.partition(":")
    if name not in SOURCES:
        raise UsageError(f"there is no SMI source {name!r}; it takes {', '.join(SOURCES)}")
    return name, argument


def sources(machine: Machine) -> dict[str, Source | Missing]:
    """Return each source, or why it can't be used here; nothing is fired."""
    return {name: find(machine, "") for name, find in SOURCES.items()}


def choose(machine: Machine, wanted: str | None) -> Source | Missing:
    """Return the source that is ``wanted`` (see :func:`split`), or else the gentlest usable one.

    That it looks usable proves nothing: see :func:`kvmtest.smi.try_out`. Raises UsageError.
    """
    found = candidates(machine, wanted)
    return found if isinstance(found, Missing) else found[0]


def candidates(machine: Machine, wanted: str | None) -> list[Source] | Missing:
    """Return the source that is ``wanted``, or else all usable ones that need no asking for.

    The gentlest comes first. Raises UsageError.
    """
    if wanted is not None:
        name, argument = split(wanted)
        source = SOURCES[name](machine, argument)
        return source if isinstance(source, Missing) else [source]
    found = {name: find(machine, "") for name, find in SOURCES.items() if name not in BY_NAME}
    usable = [source for source in found.values() if not isinstance(source, Missing)]
    # Nobody has to look for those to be asked for by name where another is usable.
    return usable or _none_of(found | {name: SOURCES[name](machine, "") for name in BY_NAME})


def _none_of(found: Mapping[str, Source | Missing]) -> Missing:
    """Return why no source is used; sources that lack the same are named together."""
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
