"""What a run records besides verdicts
===================================

The run itself, the machine, its host and kernel, the journal and the kernel log. Attributes are
named as in the JSON; None means not recorded, by an older version, say. ``extra`` has the keys that
have no attribute.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmtest.judge import Scalar

__all__ = [
    "ChangeRecord",
    "CpuRecord",
    "HostRecord",
    "JournalRecord",
    "KernelLogRecord",
    "KernelRecord",
    "LabDetails",
    "LabRecord",
    "MachineRecord",
    "RunRecord",
    "WarningsRecord",
]

#: A JSON value; a missing fact is an object with "missing", the reason, and "remedy".
Fact = object

# setlocalversion adds -g and 12 digits, git describe 7 or more; behind it stand -dirty, + or more.
_COMMIT = re.compile(r"-g([0-9a-f]{7,40})(?![0-9a-z])")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The program and this run of it.

    ``started`` and ``ended`` are UTC in ISO 8601. ``interrupted``: results stop where the run did.
    ``strict``: known defects count in the exit status. ``problems`` are what went wrong besides
    verdicts and undoing.
    """

    version: str
    command: list[str]
    started: str
    ended: str
    interrupted: bool
    strict: bool | None = None
    problems: list[str] | None = None
    extra: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CpuRecord:
    """The machine's CPUs, as :class:`kvmtest.host.facts.cpu.Cpu` has them."""

    vendor: str | None = None
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    model_name: str | None = None
    microcode: int | None = None
    features: list[str] | None = None
    vmx_features: list[str] | None = None
    online: list[int] | None = None
    possible: list[int] | None = None
    extra: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabDetails:
    """The parts of an emulated machine; ``extra`` has what only its emulator knows.

    ``modules`` says whose KVM modules it loads, and ``modules_laid_over`` which files took the
    place of the kernel's own. ``kvm_parameters`` are the modules' load parameters.
    """

    cpus: int | None = None
    memory_mib: int | None = None
    board: str | None = None
    shown_cpu_features: str | None = None
    kernel: str | None = None
    kernel_digest: str | None = None
    modules: str | None = None
    modules_laid_over: str | None = None
    kvm_parameters: str | None = None
    command_line: str | None = None
    emulator_digest: str | None = None
    image_digest: str | None = None
    emulated_on: str | None = None
    start: str | None = None
    extra: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabRecord:
    """The emulated machine; ``lacks`` has the reason for each precondition that it does not meet.

    ``model`` is the emulator's name for the CPU.
    """

    emulator: str
    model: str
    version: str
    lacks: Mapping[str, str]
    details: LabDetails | None = None
    extra: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """The machine under test; ``kind`` is "host", "stand-in" or "lab".

    The ``hostname`` of an emulated machine is its host's.
    """

    kind: str
    root: str | None = None
    hostname: str | None = None
    virtualisation: str
    cpu: CpuRecord | None
    lab: LabRecord | None = None
    extra: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostRecord:
    """The facts that decide what can be proved here."""

    kvm_module: Fact = None
    mediated_pmu: Fact = None
    knob: Fact = None
    msr: Fact = None
    lockdown: Fact = None
    secure_boot: Fact = None
    pmus: Fact = None
    pmu_names: Fact = None
    fadt: Fact = None
    kvm_users: Fact = None
    extra: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarningsRecord:
    """The kernel's taint around the run, and whether a WARN that fired could fire again."""

    taint_before: Fact
    taint_after: Fact
    once_not_given_back: Fact
    extra: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """The running kernel; ``missing`` says why it is not known.

    ``configuration`` is the file that it was read from, and ``fix`` what BTF shows of KVM's
    host-owned DEBUGCTL code.
    """

    release: str | None = None
    version_string: str | None = None
    version: list[int] | None = None
    compiler: str | None = None
    build_date: str | None = None
    configuration: Fact = None
    fix: Fact = None
    warnings: WarningsRecord | None = None
    missing: str | None = None
    remedy: str | None = None
    extra: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def commit(self) -> str | None:
        """The commit that it was built from, shortened; None unless its release names one.

        CONFIG_LOCALVERSION_AUTO adds it to the release (scripts/setlocalversion of the kernel).
        """
        found = _COMMIT.search(self.release or "")
        return found[1] if found else None


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """One change of the host, as :class:`kvmtest.host.changes.journal.Change` has it."""

    sentence: str
    sequence: int | None = None
    path: str | None = None
    old: str | None = None
    new: str | None = None
    writes: int | None = None
    undone: bool | None = None
    error: str | None = None
    extra: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """The changes of the host, what could not be undone, and what was undone for a dead run."""

    changes: list[ChangeRecord]
    failures: list[str]
    recovered: list[str]


@dataclass(frozen=True, slots=True)
class KernelLogRecord:
    """How many records the kernel logged during the run; ``missing`` says why none were read."""

    missing: str | None
    records: int
    lost: int
    extra: Mapping[str, Fact] = field(default_factory=dict)
