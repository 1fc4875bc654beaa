"""Options of a run
================

The options of a run, each written once as a field of :class:`RunOptions`. The fields give the
options of ``kvmtest run``, those that ``kvmtest lab run`` passes on, and pytest's.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from kvmtest.errors import UsageError

__all__ = ["Option", "RunOptions", "option", "options", "path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How a field is written on a command line; without a ``metavar`` it is a switch.

    ``name`` and ``default`` are the field's; ``flags`` follow from the name if none are given.
    ``in_lab``: ``kvmtest lab run`` takes the option, too. ``in_pytest``: pytest, which has
    no such option of its own, takes it.
    """

    help: str
    metavar: str | None = None
    parse: Callable[[str], object] = str
    flags: tuple[str, ...] = ()
    in_lab: bool = False
    in_pytest: bool = True
    name: str = ""
    default: Any = None

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords that argparse and pytest take to add the option."""
        if self.metavar is None:
            return {"help": self.help, "action": "store_true"}
        many = {"action": "append", "default": []} if self.default == () else {}
        given = {"help": self.help, "metavar": self.metavar, "type": self.parse}
        return {"default": self.default, **given, **many}

    def add_to(self, parser: argparse.ArgumentParser, *flags: str) -> None:
        """Add the option to a command's parser, under other ``flags`` if given."""
        parser.add_argument(*(flags or self.flags), dest=self.name, **self.keywords)

    def words(self, value: Any) -> list[str]:
        """Return the command-line words that set a value."""
        if value == self.default:
            return []
        if self.metavar is None:
            return [self.flags[-1]]
        values = value if isinstance(value, tuple) else (value,)
        return [f"{self.flags[-1]}={each}" for each in values]


def path(text: str) -> Path:
    """Return the path that ``text`` names, which is not empty."""
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("the name is empty")


def _root(text: str) -> Path:
    try:
        root = path(text).resolve(strict=True)
        if root.is_dir():
            return root
        problem = "not a folder"
    except (OSError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or "a loop of symbolic links"
    raise argparse.ArgumentTypeError(f"{text}: {problem}")


def _smi_source(text: str) -> str:
    from kvmtest.smi import split

    try:
        split(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _steps(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) <= 8:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: give 1 to 8")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of a run; ``command`` is the command line as the user wrote it."""

    command: tuple[str, ...] = ()
    output: Annotated[
        Path | None,
        Option(
            help="write evidence.json, junit.xml, ktap.txt and kernel.log to DIR, a new folder",
            flags=("-o",),
            metavar="DIR",
            parse=path,
        ),
    ] = None
    only: Annotated[
        tuple[str, ...],
        Option(help="decide this property alone (may be repeated)", metavar="ID", in_lab=True),
    ] = ()
    marker: Annotated[
        str | None,
        Option(
            help="decide the properties of a marker alone: intel, amd, nested, tdx, smi, lab; also "
            "'intel and not smi'",
            flags=("-m",),
            metavar="MARKER",
            in_lab=True,
            in_pytest=False,
        ),
    ] = None
    require: Annotated[
        tuple[str, ...],
        Option(
            help="FAIL unless the property ID is decided, witness:NAME speaks wherever it can "
            "look, or the precondition feature:NAME is met (may be repeated)",
            metavar="X",
            in_lab=True,
        ),
    ] = ()
    bisect: Annotated[
        bool,
        Option(help="for git bisect run: exit 0 for good, 1 for bad, 125 otherwise", in_lab=True),
    ] = False
    strict: Annotated[bool, Option(help="count known defects as FAIL", in_lab=True)] = False
    smi_source: Annotated[
        str | None,
        Option(
            help="the source of SMIs: lab, efivar[:VARIABLE], efivarfs-statfs, dell-smm-hwmon, "
            "efivar-refused; used only if named: passive, command:CMD, efivar-write[:VARIABLE], "
            "dcdbas, apm-port[:VALUE] (default: the gentlest that proves itself)",
            metavar="NAME",
            parse=_smi_source,
            in_lab=True,
        ),
    ] = None
    schedule_steps: Annotated[
        int,
        Option(
            help="the length of the longest schedules that vmx.entry.schedules and "
            "vmx.entry.after-emulation play, 1 to 8 (default: 2); 6 take hours in the lab",
            metavar="N",
            parse=_steps,
            in_lab=True,
        ),
    ] = 2
    dry_run: Annotated[bool, Option(help="list every host change, make none")] = False
    quiet: Annotated[
        bool, Option(help="print the verdict in one line", flags=("-q", "--quiet"), in_pytest=False)
    ] = False
    verbose: Annotated[
        bool,
        Option(
            help="print tables: every verdict's reason, and how to get what is missing",
            flags=("-v", "--verbose"),
            in_pytest=False,
        ),
    ] = False
    allow_other_vms: Annotated[bool, Option(help="run beside other VMs")] = False
    reload_modules: Annotated[
        bool,
        Option(help="reload the KVM module with other parameters for properties that need it"),
    ] = False
    hotplug: Annotated[
        bool,
        Option(help="take a CPU offline and online again, for host.hotplug and in schedules"),
    ] = False
    root: Annotated[
        Path,
        Option(
            help="read and change host files below DIR, a stand-in tree, instead of /",
            metavar="DIR",
            parse=_root,
        ),
    ] = Path("/")

    @classmethod
    def of(cls, parsed: object, prefix: str = "") -> "RunOptions":
        """Return the options that a parser found; their names there begin with ``prefix``."""
        names = [f.name for f in fields(cls) if hasattr(parsed, f"{prefix}{f.name}")]
        values = [getattr(parsed, f"{prefix}{name}") for name in names]
        tuples = (tuple(v) if isinstance(v, list) else v for v in values)
        return cls(**dict[str, Any](zip(names, tuples, strict=True)))

    def words(self) -> list[str]:
        """Return the words after ``kvmtest run`` that give these options."""
        return [word for each in options() for word in each.words(getattr(self, each.name))]


@cache
def options() -> tuple[Option, ...]:
    """Return all options, in the order of the fields."""
    return tuple(
        replace(
            of,
            name=each.name,
            default=each.default,
            flags=of.flags or (f"--{each.name.replace('_', '-')}",),
        )
        for each in fields(RunOptions)
        for of in getattr(each.type, "__metadata__", ())
    )


def option(name: str) -> Option:
    """Return the option of that field."""
    (found,) = (each for each in options() if each.name == name)
    return found
