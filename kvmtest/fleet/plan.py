"""Plans
=====

What a fleet runs: hosts, kernels, and which kernel runs on which host, how often and with which
options. A plan is a YAML file that fits plan-1.json; an error in it names its line.
"""

import argparse
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from kvmtest import named_file
from kvmtest.errors import UsageError
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.target import VENDORS
from kvmtest.run_options import RunOptions, options
from kvmtest.target import DEADLINE

from .host import KernelKind, PlannedKernel
from .plan_text import Lines, PlanError, read

__all__ = [
    "LabMachine",
    "Place",
    "Plan",
    "PlanError",
    "PlannedHost",
    "PlannedRun",
    "Reservation",
    "SshHost",
    "load",
    "parse",
]

OWN = "own"

#: The most bytes read of a plan.
_MOST = named_file.MIB
_LONGEST_S = 7 * 86400.0
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_TIME = re.compile(r"(\d{1,7})\s?([smh]?)", re.ASCII)
#: What a fleet itself calls files in the folders that hosts and kernels name.
_OURS = re.compile(r".*\.(json|jsonl|html|yaml|xml|lock)|matrix-runs", re.I)
#: Options of a run that real hosts take and a lab machine does not.
_OF_HARDWARE = ("allow_other_vms", "reload_modules", "hotplug")


@dataclass(frozen=True, slots=True)
class LabMachine:
    """An emulated machine of this host (kvmtest.lab.target.LabOptions)."""

    machine: str
    cpus: int | None = None
    cpu_features: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    """Parameters that KVM's modules are loaded with, each ``MODULE.NAME=VALUE``."""

    def __str__(self) -> str:
        return f"lab {self.machine}"


@dataclass(frozen=True, slots=True)
class SshHost:
    """A machine with an SSH server."""

    address: str
    """USER@HOST."""

    port: int | None = None
    """None leaves the port to ssh_config(5)."""

    def __str__(self) -> str:
        return f"ssh {self.address}{f' port {self.port}' if self.port else ''}"


@dataclass(frozen=True, slots=True)
class Place:
    """A place of labgrid's coordinator."""

    name: str

    def __str__(self) -> str:
        return f"place {self.name}"


@dataclass(frozen=True, slots=True)
class Reservation:
    """Any place of labgrid's coordinator that has these tags."""

    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"reserve {' '.join(f'{tag}={value}' for tag, value in self.tags.items())}"


@dataclass(frozen=True, slots=True)
class PlannedHost:
    """A host of a plan; ``reach`` is how it is reached."""

    name: str
    reach: LabMachine | SshHost | Place | Reservation
    kind: str
    boot: str = "grub"
    """How it boots another kernel once, ``grub`` or ``kexec``; nothing to a lab machine."""

    line: int = 0

    @property
    def is_lab(self) -> bool:
        """Whether it is a machine of the lab."""
        return isinstance(self.reach, LabMachine)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """An entry of a plan's runs: each of its kernels runs on each of its hosts."""

    hosts: tuple[str, ...]
    kernels: tuple[str, ...]
    options: str = ""
    """Options of ``kvmtest run``, as a command line has them."""

    require: tuple[str, ...] = ()
    repeat: int = 1
    deadline: float = DEADLINE
    """Seconds that one run may take."""

    boot_deadline: float = DEADLINE
    """Seconds that a boot or a restoration may take."""

    retries: int = 1
    line: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """What runs on hosts of a kind are given besides."""

    options: str = ""
    require: tuple[str, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan; all its paths are absolute."""

    hosts: Mapping[str, PlannedHost]
    kernels: Mapping[str, PlannedKernel]
    runs: Sequence[PlannedRun]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    coordinator: str = ""
    """labgrid's, as HOST:PORT; "" leaves it to labgrid."""

    ssh_config: Path | None = None
    path: Path = Path("plan.yaml")
    text: str = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def options(self, run: PlannedRun, host: PlannedHost) -> RunOptions:
        """Return the options of a run of an entry on a host.

        Where kind and entry give the same option, the entry's counts. Raises PlanError for options
        that do not exist, or that the host does not take.
        """
        kind = self.kinds.get(host.kind, Kind())
        entries: list[Kind | PlannedRun] = [kind, run]
        parser = _parser(host)
        words = [word for entry in entries for word in self._split(entry, host, parser)]
        given = RunOptions.of(parser.parse_args(words))
        return replace(given, require=tuple(dict.fromkeys((*kind.require, *run.require))))

    def _split(
        self, entry: Kind | PlannedRun, host: PlannedHost, parser: argparse.ArgumentParser
    ) -> list[str]:
        try:
            words = shlex.split(entry.options)
            parser.parse_args(words)
        except (UsageError, ValueError) as error:
            advice = f"{host.name} takes the options of kvmtest {'lab ' * host.is_lab}run"
            raise PlanError(self.path, entry.line, f"options: {error}", advice) from None
        return words


def _parser(host: PlannedHost) -> argparse.ArgumentParser:
    """Return the parser of the options that runs on a host take."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for option in options():
        is_taken = option.in_lab or (option.name in _OF_HARDWARE and not host.is_lab)
        # A fleet judges each run, and a plan has its own words for what is required.
        if is_taken and option.name not in ("bisect", "require"):
            option.add_to(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def load(path: Path) -> Plan:
    """Read a plan; relative paths in it are relative to its folder. Raises PlanError."""
    try:
        text = named_file.read(path, _MOST).decode()
    except OSError as error:
        raise PlanError(path, 0, error.strerror or str(error), "name a plan") from None
    except UnicodeDecodeError:
        raise PlanError(path, 0, "this is not text in UTF-8", "name a plan") from None
    return parse(text, path)


def parse(text: str, path: Path, folder: Path | None = None) -> Plan:
    """Return the plan that ``text`` holds; errors call it ``path``. Raises PlanError.

    Relative paths in it are relative to ``folder``, by default that of ``path``. The files of
    kernels must be there, unless it is the copy of a plan, whose ``folder`` is given.
    """
    data, lines = read(text, path)
    base = (folder or path.parent).absolute()
    return _Reader(data, lines, path, base, needs_files=folder is None).plan(text)


class _Reader:
    """Makes the values of a plan that fits the schema, and checks what a schema can't."""

    def __init__(
        self, data: Mapping[str, Any], lines: Lines, path: Path, folder: Path, *, needs_files: bool
    ) -> None:
        self._data = data
        self._lines = lines
        self._path = path
        self._folder = folder
        self._needs_files = needs_files

    def plan(self, text: str) -> Plan:
        data = self._data
        kinds = {name: self._kind(name, given) for name, given in data.get("kinds", {}).items()}
        hosts = {name: self._host(name, given) for name, given in data["hosts"].items()}
        kernels = {
            name: self._kernel(name, given)
            for name, given in data.get("kernels", {OWN: {"own": True}}).items()
        }
        for name in kinds:
            if name not in (known := {host.kind for host in hosts.values()}):
                self._refuse(("kinds", name), f"no host is of the kind {name}", _choice(known))
        runs = [self._run(number, hosts, kernels) for number in range(len(data["runs"]))]
        config = data.get("ssh_config")
        plan = Plan(
            hosts, kernels, runs, kinds, data.get("coordinator", ""),
            self._folder / config if config else None, self._path, text,
        )  # fmt: skip
        for run in runs:
            for name in run.hosts:
                plan.options(run, hosts[name])
        return plan

    def _refuse(self, at: tuple[str | int, ...], what: str, advice: str) -> NoReturn:
        raise PlanError(self._path, self._lines.of(at), what, advice)

    def _named(self, at: tuple[str | int, ...], name: str) -> None:
        if _OURS.fullmatch(name):
            self._refuse(at, f"{name} is a name of files that a fleet writes", "choose another")

    def _one(self, at: tuple[str | int, ...], given: Mapping[str, Any], of: Sequence[str]) -> str:
        """Return the one key of ``of`` that is given."""
        found = [key for key in of if key in given]
        if len(found) != 1:
            what = "both " + " and ".join(found) if found else "none of " + ", ".join(of)
            self._refuse(at, f"{at[-1]} has {what}", "give one")
        return found[0]

    def _host(self, name: str, given: Mapping[str, Any]) -> PlannedHost:
        at = ("hosts", name)
        self._named(at, name)
        way = self._one(at, given, ("lab", "ssh", "place", "reserve"))
        lab = ("cpus", "cpu_features", "parameters")
        fits = {"lab": lab, "ssh": ("port", "boot")}.get(way, ("boot",))
        for key in given.keys() - {way, "kind", *fits}:
            self._refuse((*at, key), f"{key} does not fit a host by {way}", f"remove {key}")
        reach: LabMachine | SshHost | Place | Reservation
        if way == "lab":
            words = {key: tuple(given.get(key, ())) for key in ("cpu_features", "parameters")}
            reach = LabMachine(given["lab"], given.get("cpus"), **words)
            try:
                Parameters.parse(reach.parameters, VENDORS[reach.machine])
            except UsageError as error:
                self._refuse((*at, "parameters"), *str(error).rsplit(": ", 1))
        elif way == "ssh":
            reach = SshHost(given["ssh"], given.get("port"))
        elif way == "place":
            reach = Place(given["place"])
        else:
            reach = Reservation({key: str(value) for key, value in given["reserve"].items()})
        return PlannedHost(
            name, reach, given.get("kind", way), given.get("boot", "grub"), self._lines.of(at)
        )

    def _kernel(self, name: str, given: Mapping[str, Any]) -> PlannedKernel:
        at = ("kernels", name)
        self._named(at, name)
        kind = KernelKind(self._one(at, given, tuple(KernelKind)))
        for key in given.keys() - {kind}:
            self._refuse((*at, key), f"{key} does not fit a kernel by {kind}", f"remove {key}")
        files = [given["tree"]] if kind is KernelKind.TREE else given.get("deb", [])
        paths = tuple(self._folder / file for file in files)
        for path in paths:
            if self._needs_files and not path.exists():
                self._refuse((*at, kind), f"{path} does not exist", "name another")
        return PlannedKernel(name, kind, str(given.get("debian", "")), paths)

    def _kind(self, name: str, given: Mapping[str, Any]) -> Kind:
        line = self._lines.of(("kinds", name))
        return Kind(given.get("options", ""), tuple(given.get("require", ())), line)

    def _run(
        self, number: int, hosts: Mapping[str, PlannedHost], kernels: Mapping[str, PlannedKernel]
    ) -> PlannedRun:
        at = ("runs", number)
        given = self._data["runs"][number]
        kinds = {host.kind for host in hosts.values()}
        for key, known in (("hosts", hosts.keys() | kinds), ("kernels", kernels.keys())):
            for index, name in enumerate(given.get(key, ())):
                if name not in known:
                    what = f"there is no {key.removesuffix('s')} {name}"
                    self._refuse((*at, key, index), what, _choice(known))
        named = given.get("hosts", list(hosts))
        return PlannedRun(
            tuple(name for name, host in hosts.items() if name in named or host.kind in named),
            tuple(given.get("kernels", kernels)),
            given.get("options", ""),
            tuple(given.get("require", ())),
            given.get("repeat", 1),
            self._time((*at, "deadline"), given.get("deadline")),
            self._time((*at, "boot_deadline"), given.get("boot_deadline")),
            given.get("retries", 1),
            self._lines.of(at),
        )

    def _time(self, at: tuple[str | int, ...], given: int | str | None) -> float:
        if given is None:
            return DEADLINE
        found = _TIME.fullmatch(str(given))
        seconds = int(found[1]) * _UNITS[found[2]] if found else 0
        if not 0 < seconds <= _LONGEST_S:
            self._refuse(at, f"{at[-1]}: {given} is no time", "give 1s to 168h, such as 15m")
        return float(seconds)


def _choice(known: "Sequence[str] | set[str] | Any") -> str:
    names = sorted(known)
    return f"there is {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
