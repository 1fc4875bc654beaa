"""The lab as a target
===================

Runs jobs in an emulated machine: this same kvmtest inside, its evidence brought back.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kvmtest.cache import Cache
from kvmtest.evidence.file import EVIDENCE, loads
from kvmtest.host.facts.lab import VARIABLE
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.overlay import Overlay
from kvmtest.kernels.resolve import resolve
from kvmtest.target import Job, Outcome, TargetFailed

from . import kernel_options
from .emulators.bochs import find as bochs
from .emulators.bochs.build import Builder
from .emulators.bochs.built import BuiltBochs
from .emulators.emulator import Emulator, Hardware
from .emulators.qemu import PC, Q35, Qemu
from .emulators.search import Search
from .image import payload
from .image.contents import MODULE_ARGUMENTS
from .parameters import Parameters
from .saved_machine import SavedMachine

__all__ = ["MACHINES", "MODULES", "NEEDED_MIB", "VENDORS", "LabOptions", "LabTarget"]

#: The lab's machines by name, and how the emulator of each is found.
MACHINES: dict[str, Callable[[Builder], Emulator]] = {
    "intel": bochs.find,
    "amd": lambda _: Qemu.find(),
    "amd-uefi": lambda _: Qemu.find(Q35),
}
#: The modules that each loads; the first is KVM's vendor module.
MODULES: dict[str, tuple[str, ...]] = {
    "intel": BuiltBochs.modules,
    "amd": PC.loads,
    "amd-uefi": Q35.loads,
}
#: KVM's vendor module in each.
VENDORS = {name: modules[0] for name, modules in MODULES.items()}
#: The MiB of the host's memory that each needs while it runs, emulator and kvmtest together.
NEEDED_MIB = {"intel": 640, "amd": 768, "amd-uefi": 1024}

# The steps of a job by the stage that ends each (kvmtest/lab/inside/agent.py).
_STEPS = {"awake": "restore", "running": "job", "end": "suite"}

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LabOptions:
    """Which machine, and which kernel boots in it; None leaves the choice to the lab."""

    machine: str = "intel"
    kernel: Sequence[str] | None = None
    """As :func:`kvmtest.kernels.resolve.resolve` takes it."""

    modules: Path | None = None
    """A folder of modules in place of the kernel's own, of all or of KVM's alone."""

    cpus: int | None = None
    cpu_features: tuple[str, ...] = ()
    """CPUID features to show guests although the CPU lacks them, by Linux's names."""

    cold: bool = False
    """Boot for each job; neither save nor restore a machine."""


class Stopwatch:
    """Measures steps that follow each other, in seconds."""

    def __init__(self) -> None:
        self.durations: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """End the step ``name``, which began when the last one ended."""
        now = time.monotonic()
        self.durations[name] = now - self._last
        self._last = now

    def machine_lap(self, stages: Mapping[str, float]) -> None:
        """End the steps of a machine that ends now; ``stages`` are seconds from its start."""
        before = 0.0
        for stage, seconds in stages.items():
            if stage in _STEPS:
                self.durations[_STEPS[stage]] = seconds - before
                before = seconds
        self._last += before
        self.lap("poweroff")


@dataclass
class LabTarget:
    """An emulated machine with one kernel; its steps are timed from its making on."""

    machine: SavedMachine
    watch: Stopwatch = field(default_factory=Stopwatch)

    @classmethod
    def of(
        cls, options: LabOptions, on_step: OnText, on_line: OnText, cache: Cache | None = None
    ) -> "LabTarget":
        """Return the target that ``options`` describe; ``on_step`` and ``on_line`` get text.

        ``on_step`` gets a line before each step that takes seconds, ``on_line`` each line that a
        machine prints. Raises UsageError and EnvironmentUnfit where there is no such machine or
        kernel.
        """
        watch = Stopwatch()
        cache = cache or Cache.default()
        needed = MODULES[options.machine]
        with Search(MACHINES[options.machine], cache, on_step) as search:
            kernel = resolve(options.kernel, options.modules, cache, on_step, needed=needed)
            emulator = search.result()
        hardware = Hardware(options.cpus or emulator.cpus, cpu_features=tuple(options.cpu_features))
        emulator.check(hardware)
        kernel_options.require(kernel, needed[0], hardware.cpus, on_step)
        machine = SavedMachine(emulator, kernel, cache, on_step, on_line, hardware, options.cold)
        watch.lap("kernel")
        return cls(machine, watch)

    @property
    def kernel(self) -> BootableKernel:
        """The kernel that it boots."""
        return self.machine.kernel

    @property
    def vendor(self) -> str:
        """KVM's vendor module in it."""
        return self.machine.emulator.modules[0]

    def with_hardware(self, hardware: Hardware) -> "LabTarget":
        """Return a target with the same kernel in a machine of other hardware."""
        return LabTarget(replace(self.machine, hardware=hardware))

    def run(self, job: Job) -> Outcome:
        """Run a job (kvmtest.target.Target)."""
        machine, watch = self.machine, self.watch
        folder = job.modules or self.kernel.over
        parameters = Parameters.parse(job.parameters, self.vendor)
        overlay = Overlay.of(folder, self.kernel, self.vendor) if folder else None
        machine.image()
        watch.lap("image")
        if machine.is_restored:
            machine.ready()
            watch.lap("saved machine")
        files = {**parameters.files, **self._description(job, overlay, parameters)}
        output = machine.run({**files, **(overlay.files if overlay else {})}, job.deadline)
        watch.machine_lap(output.stages)
        data = output.files.get(EVIDENCE)
        if data is None:
            raise TargetFailed(
                f"kvmtest ended with status {output.status} in the lab's machine and left no "
                "evidence",
                output.printed,
            )
        evidence = loads(data.decode(errors="replace"), Path("evidence.json of the lab"))
        return Outcome(output.status, evidence, output.files, output.console, watch.durations)

    def _description(
        self, job: Job, overlay: Overlay | None, parameters: Parameters
    ) -> dict[str, bytes]:
        """Return the job as the agent inside reads it."""
        own = MODULE_ARGUMENTS.get(self.vendor, ())
        laying = overlay.commands(own) if overlay else []
        facts = self.facts(overlay, str(parameters))
        return payload.job(
            ["run", "--quiet", "--reload-modules", "--hotplug", "-o", "/tmp/output", *job.words],
            {VARIABLE: json.dumps(facts)},
            [*laying, *parameters.commands, *job.commands],
        )

    def facts(self, overlay: Overlay | None = None, parameters: str = "") -> dict[str, Any]:
        """Return what evidence says of the machine, of KVM's modules and of their parameters.

        Every report names the files of an ``overlay``.
        """
        machine = self.machine
        emulator, hardware = machine.emulator, machine.hardware
        laid = {"modules_laid_over": ", ".join(overlay.digests)} if overlay else {}
        return {
            "emulator": emulator.name,
            "version": emulator.version,
            "model": emulator.model,
            "lacks": dict(emulator.lacks),
            "details": {
                "emulator_digest": emulator.digest,
                "cpus": hardware.cpus,
                "memory_mib": hardware.memory,
                "shown_cpu_features": " ".join(hardware.cpu_features),
                "kernel": self.kernel.origin,
                "kernel_digest": self.kernel.digest,
                "modules": str(overlay) if overlay else "the kernel's own",
                **laid,
                "kvm_parameters": parameters,
                "command_line": machine.command_line,
                "image_digest": machine.image_digest,
                **emulator.details,
                "emulated_on": os.uname().nodename,
                "start": "restored from a saved machine" if machine.is_restored else "booted",
            },
        }
