"""A survey of kernels
===================

Many kernels, each run once in one or more of the lab's machines: the row that is kept of a run.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from kvmtest import __version__
from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import Evidence
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.target import Job

from .digest import of_files, of_parts
from .emulators.emulator import Emulator, Hardware
from .emulators.search import Search
from .image import payload
from .parameters import Parameters
from .target import MACHINES, VENDORS, LabOptions, LabTarget

__all__ = [
    "FIRST_MACHINES",
    "Key",
    "SurveyMachine",
    "Surveyed",
    "basis_of",
    "row_of",
    "row_of_failure",
]

Key = tuple[str, str, str, int, str]
OnText = Callable[[str], None]

#: The machine's name in older rows, which lack it: each emulator had one machine.
FIRST_MACHINES = {"Bochs": "intel", "QEMU": "amd"}


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One kernel's verdicts by property in one machine."""

    release: str
    version: str
    debian_version: str | None
    date: str | None
    kvmtest: str
    """The version that ran."""

    machine: str
    """The emulator, its version, the CPU's model and the number of CPUs, in words."""

    verdicts: Mapping[str, str]
    known_defects: Mapping[str, str]
    lab: str = ""
    """The name of the lab's machine, such as amd-uefi."""

    cpus: int = 0
    setup: str = ""
    """The parameters that KVM's modules were loaded with; empty for their defaults."""

    basis: str = ""
    """The digest of the kvmtest that ran and of the machine it ran in; rows of before lack it."""

    failure: str = ""
    """Why the machine did not finish the run, which then decided nothing."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return a row of the file; older rows lack the machine's name."""
        made = cls(**row)
        cpus = re.search(r"(\d+) CPU", made.machine)
        return replace(
            made,
            lab=made.lab or FIRST_MACHINES.get(made.emulator, made.emulator),
            cpus=made.cpus or int(cpus[1] if cpus else 1),
        )

    @property
    def key(self) -> Key:
        """The key by which a later row replaces this one."""
        return self.release, self.lab, self.emulator, self.cpus, self.setup

    @property
    def emulator(self) -> str:
        """The emulator's name."""
        return self.machine.split()[0]

    @property
    def heading(self) -> str:
        """The heading of its table."""
        return f"{self.machine}, {self.setup}" if self.setup else self.machine

    @property
    def series(self) -> str:
        """The series of stable kernels that it is of, such as 6.12."""
        return ".".join(self.version.split(".")[:2])

    @property
    def age(self) -> tuple[list[list[int]], str]:
        """The sort key of rows, the oldest kernel first."""
        names = self.version, self.debian_version or "", self.release
        return [
            [int(number) for number in re.findall(r"\d+", name)] for name in names
        ], self.release


@dataclass(frozen=True)
class SurveyMachine:
    """One of the lab's machines, in which each kernel boots; no machine is saved.

    A kernel runs once: to save its machine twice and to restore it twice would cost more time than
    the run, and 0.6 GB. ``basis`` is the digest of kvmtest and of the machine.
    """

    options: LabOptions
    emulator: Emulator
    parameters: Parameters
    job: Job
    basis: str

    @classmethod
    def of(cls, options: LabOptions, job: Job, on_step: OnText) -> Self:
        """Return the machine of ``options``; raises UsageError, EnvironmentUnfit.

        ``on_step`` gets a line before each step that takes seconds.
        """
        parameters = Parameters.parse(job.parameters, VENDORS[options.machine])
        with Search(MACHINES[options.machine], Cache.default(), on_step) as search:
            emulator = search.result()
        hardware = Hardware(options.cpus or emulator.cpus)
        basis = of_parts(of_files(payload.package()), emulator.machine_digest(hardware))
        return cls(replace(options, cold=True), emulator, parameters, job, basis)

    def key(self, release: str) -> Key:
        """Return the key of a kernel's row."""
        cpus = self.options.cpus or self.emulator.cpus
        return release, self.options.machine, self.emulator.name, cpus, str(self.parameters)


def row_of(kernel: BootableKernel, name: str, evidence: Evidence) -> Surveyed:
    """Return the row of a run on ``kernel`` in the lab's machine ``name``.

    Raises EnvironmentUnfit if the evidence is not from a lab.
    """
    machine = evidence.machine.lab
    details = machine and machine.details
    if not machine or not details or not details.cpus:
        raise EnvironmentUnfit("the evidence does not say which machine it is from; run it again")
    emulator = f"{machine.emulator} {machine.version}, {machine.model}"
    return replace(
        _row(kernel, emulator, name, details.board, details.cpus),
        kvmtest=evidence.kvmtest.version,
        verdicts={r.id: r.verdict.value for r in evidence.results},
        known_defects={r.id: r.known_defect for r in evidence.results if r.known_defect},
        setup=details.kvm_parameters or "",
    )


def row_of_failure(target: LabTarget, machine: SurveyMachine, failure: str) -> Surveyed:
    """Return the row of a kernel whose machine did not finish."""
    own = machine.emulator
    board = own.details.get("board")
    return replace(
        _row(
            target.kernel,
            f"{own.name} {own.version}, {own.model}",
            machine.options.machine,
            str(board) if board else None,
            target.machine.hardware.cpus,
        ),
        setup=str(machine.parameters),
        failure=failure,
    )


def basis_of(target: LabTarget) -> str:
    """Return the digest of the kvmtest and of the machine that ran in a target."""
    own = target.machine
    return of_parts(of_files(own.package), own.emulator.machine_digest(own.hardware))


def _row(
    kernel: BootableKernel, emulator: str, name: str, board: str | None, cpus: int
) -> Surveyed:
    """Return a row without verdicts."""
    parts = [emulator, *([] if name in FIRST_MACHINES.values() else [board or name])]
    return Surveyed(
        kernel.release,
        kernel.version,
        kernel.debian_version,
        kernel.date,
        __version__,
        ", ".join([*parts, f"{cpus} CPU"]),
        {},
        {},
        name,
        cpus,
    )
