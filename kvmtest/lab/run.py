"""kvmtest lab run
===============

Boots a kernel in a lab's machine, runs this same kvmtest inside, and brings its evidence back.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.text import Text

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import Evidence
from kvmtest.evidence.directory import new_folder
from kvmtest.evidence.file import loads
from kvmtest.host.facts.lab import VARIABLE
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.kernels.overlay import Overlay
from kvmtest.kernels.resolve import resolve
from kvmtest.lab.emulators.bochs import Bochs
from kvmtest.lab.emulators.emulator import Emulator, Hardware
from kvmtest.lab.emulators.qemu import Q35, Qemu
from kvmtest.report.files import write_reports
from kvmtest.report.plots import write_beside
from kvmtest.report.terminal import Progress, console, show_evidence

from .image import payload
from .image.contents import MODULE_ARGUMENTS
from .lab import Lab
from .machine import MachineFailed, Outcome
from .parameters import Parameters

__all__ = [
    "DEADLINE",
    "MACHINES",
    "VENDORS",
    "Options",
    "assemble",
    "run",
    "run_once",
    "teller",
    "write",
]

#: The lab's machines, and how the emulator of each is found.
MACHINES: dict[str, Callable[[], Emulator]] = {
    "intel": Bochs.find,
    "amd": Qemu.find,
    "amd-uefi": partial(Qemu.find, Q35),
}
#: The vendor module of KVM in each.
VENDORS = {"intel": "kvm_intel", "amd": "kvm_amd", "amd-uefi": "kvm_amd"}
DEADLINE = 900.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for; ``run_options`` are those of kvmtest run."""

    machine: str = "intel"
    kernel: Sequence[str] | None = None
    modules: Path | None = None
    cpus: int | None = None
    cpu_features: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    cold: bool = False
    deadline: float = DEADLINE
    output: Path | None = None
    run_options: list[str] = field(default_factory=list)


def run(options: Options) -> int:
    """Do one run in a machine, show what came of it, and return kvmtest's exit status there."""
    clock = _Clock()
    output = new_folder(options.output) if options.output else None
    with _failure_shown(output), Progress() as progress:
        tell = teller(progress)
        # Looked for first: without it there is no need for a kernel.
        emulator = MACHINES[options.machine]()
        hardware = Hardware(options.cpus or emulator.cpus, cpu_features=options.cpu_features)
        emulator.check(hardware)
        parameters = Parameters.parse(options.parameters, emulator.modules[0])
        cache = Cache.default()
        kernel = resolve(options.kernel, options.modules, cache, tell, needed=emulator.modules)
        if kernel.over:
            # Read before anything boots: they may not fit.
            Overlay.of(kernel.over, kernel, emulator.modules[0])
        clock.lap("kernel")
        lab = assemble(progress, emulator, kernel, cache, hardware, cold=options.cold)
        lab.boot()
        clock.lap("image")
        if lab.restores:
            lab.ready()
            clock.lap("saved machine")
        outcome, evidence = run_once(
            lab, options.run_options, options.deadline, kernel.over, parameters=parameters
        )
    clock.stages(outcome)
    if output:
        write(outcome, output)
        write_reports(evidence, output)
        write_beside(evidence, output)
    show_evidence(evidence)
    console(sys.stderr).print(Text(f"kvmtest: lab: {clock}"), soft_wrap=True)
    return outcome.status


def assemble(
    progress: Progress,
    emulator: Emulator,
    kernel: BootableKernel,
    cache: Cache,
    hardware: Hardware,
    *,
    cold: bool = False,
) -> Lab:
    """Return a lab that shows in the progress line what it does, and what its machines say."""

    def hear(line: str) -> None:
        progress.say(Text(line))

    return Lab(emulator, kernel, cache, teller(progress), hear, hardware, cold)


def run_once(
    lab: Lab,
    words: Sequence[str],
    deadline: float = DEADLINE,
    modules: Path | None = None,
    commands: Sequence[Sequence[str]] = (),
    parameters: Parameters | None = None,
) -> tuple[Outcome, Evidence]:
    """Run kvmtest run with the options ``words`` in a machine of the lab.

    What the folder ``modules`` holds of KVM's modules is laid over the kernel's own; then they get
    the ``parameters``, and ``commands`` are run in the machine before kvmtest.
    Raises MachineFailed where the machine fails, or sends no evidence that can be read.
    """
    overlay = Overlay.of(modules, lab.kernel, lab.emulator.modules[0]) if modules else None
    origin, laid = (str(overlay), list(overlay.digests)) if overlay else ("the kernel's own", [])
    arguments = MODULE_ARGUMENTS.get(lab.emulator.modules[0], ())
    files, laying = (overlay.files, overlay.commands(arguments)) if overlay else ({}, [])
    setting = parameters or Parameters(lab.emulator.modules[0])
    environment = {VARIABLE: json.dumps(lab.facts(origin, str(setting), laid))}
    command = ["run", "--quiet", "--reload-modules", "-o", "/tmp/output", *words]
    prepare = [*laying, *setting.commands, *commands]
    job = {**files, **setting.files, **payload.job(command, environment, prepare)}
    outcome = lab.run(job, deadline)
    data = outcome.files.get("evidence.json")
    if data is None:
        raise MachineFailed(
            f"kvmtest ended with status {outcome.status} in the lab's machine and left no evidence",
            outcome.said,
        )
    return outcome, loads(data.decode(errors="replace"), Path("evidence.json of the lab"))


def write(outcome: Outcome, output: Path) -> None:
    """Write what came out of a machine to a folder."""
    for name, data in {**outcome.files, "console.log": outcome.console.encode()}.items():
        try:
            (output / Path(name).name).write_bytes(data)
        except OSError as error:
            raise EnvironmentUnfit(
                f"can't write {output / name}: {error.strerror}; choose another -o DIR"
            ) from None


@contextmanager
def _failure_shown(output: Path | None) -> Iterator[None]:
    """Show how a failed machine's console ends, and keep all of it in ``output``."""
    try:
        yield
    except MachineFailed as failed:
        if output:
            write(Outcome(console=failed.console), output)
        screen = console(sys.stderr)
        for line in failed.tail.splitlines():
            text = "".join(c if c.isprintable() else "\ufffd" for c in line)
            screen.print(Text(f"  | {text}"), soft_wrap=True)
        raise


class _Clock:
    """Where the time went."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a lap that began at the end of the last."""
        now = time.monotonic()
        self._laps[name] = now - self._last
        self._last = now

    def stages(self, outcome: Outcome) -> None:
        """Take over the laps of a machine's run, which ends now."""
        before = 0.0
        names = {"awake": "restore", "running": "job", "end": "suite"}
        for stage, seconds in outcome.stages.items():
            if stage in names:
                self._laps[names[stage]] = seconds - before
                before = seconds
        self._last += before
        self.lap("poweroff")

    def __str__(self) -> str:
        laps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self._laps.items())
        return f"{self._last - self._began:.1f} s in all ({laps})"


def teller(progress: Progress) -> Callable[[str], None]:
    """Return who tells of steps: in the progress line, or a line each where there is none."""

    def tell(step: str) -> None:
        if progress.is_shown:
            progress.say(Text(step))
        else:
            print(f"kvmtest: lab: {step}", file=sys.stderr, flush=True)  # noqa: T201

    return tell
