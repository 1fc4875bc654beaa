"""Which sources of SMIs there are
===============================

The table of all sources, the gentlest first, and which one is used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from kvmtest.errors import UsageError
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing

from . import apm_port, command, efivar, lab
from .counts import counts
from .source import Periodic, Source

__all__ = ["BY_NAME", "SOURCES", "choose", "sources", "split"]


def _passive(machine: Machine, _: str) -> Periodic | Missing:
    """Return the source that waits for what comes by itself, or what is missing."""
    count = counts(machine)
    if isinstance(count, Missing):
        return count
    count.close()

    @contextmanager
    def switched(_: float, __: bool) -> Iterator[None]:
        yield None

    return Periodic(
        "passive",
        "waits for SMIs that come by themselves",
        "nothing",
        fastest_hz=float("inf"),
        switched=switched,
    )


#: How each source is found, the gentlest first: by the machine and an argument, "" for none.
SOURCES: Mapping[str, Callable[[Machine, str], Source | Missing]] = {
    "passive": _passive,
    "lab": lab.find,
    "efivar": efivar.find,
    "command": command.find,
    "apm-port": apm_port.find,
}

#: Sources that nobody gets unasked: they may harm, or may take for ever.
BY_NAME = frozenset({"passive", "command", "apm-port"})


def split(wanted: str) -> tuple[str, str]:
    """Return name and argument of a source as the user names it, NAME or NAME:ARGUMENT.

    The argument is the byte of ``apm-port:0x90``, the command of ``command:CMD``, the variable of
    ``efivar:NAME-GUID``. Raises UsageError for a name that no source has.
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

    That it looks usable proves nothing: see :func:`kvmtest.smi.prove`. Raises UsageError.
    """
    if wanted is not None:
        name, argument = split(wanted)
        return SOURCES[name](machine, argument)
    found: dict[str, Source | Missing] = {}
    # Those to be asked for by name come last: nobody has to look for them where another is usable.
    for name in sorted(SOURCES, key=BY_NAME.__contains__):
        found[name] = SOURCES[name](machine, "")
        if name not in BY_NAME and not isinstance(found[name], Missing):
            return found[name]
    obstacles: list[str] = []
    by_name: list[str] = []
    for name in SOURCES:
        source = found[name]
        if isinstance(source, Missing):
            obstacles.append(f"{name}: {source.what}")
        else:
            by_name.append(name)
    if by_name:
        obstacles += [f"{name}: to be asked for by name" for name in by_name]
        remedy = " or ".join(f"--smi-source {name}" for name in by_name)
        return Missing(f"no SMI source ({'; '.join(obstacles)})", f"use {remedy}")
    return Missing(
        f"no SMI source ({'; '.join(obstacles)})",
        "use a machine whose firmware has an SMI handler",
    )
