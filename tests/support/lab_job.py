"""Jobs for the lab's machines, with what evidence says of the machine in their environment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmtest.host.facts.lab import VARIABLE
from kvmtest.kernels.overlay import Overlay
from kvmtest.lab.image import payload
from kvmtest.lab.image.contents import MODULE_ARGUMENTS
from kvmtest.lab.machine import MachineOutput
from kvmtest.lab.parameters import Parameters
from kvmtest.lab.target import LabTarget


def run_inside(
    lab: LabTarget,
    words: Sequence[str],
    files: Mapping[str, bytes] | None = None,
    commands: Sequence[Sequence[str]] = (),
) -> MachineOutput:
    """Run kvmtest with these words inside, and the commands before."""
    environment = {VARIABLE: json.dumps(lab.facts())}
    return lab.machine.run({**(files or {}), **payload.job(words, environment, commands)}, 600)


def run_script_inside(
    lab: LabTarget,
    script: Path,
    parameters: Parameters | None = None,
    files: Mapping[str, bytes] | None = None,
    modules: Path | None = None,
    words: Sequence[str] = (),
) -> MachineOutput:
    """Run a Python script inside, with ``words`` and beside ``files``; raises TargetFailed, with
    its last line, where it fails.

    KVM's modules get ``parameters`` before, and those in the folder ``modules`` replace them. The
    files that the script writes to /tmp/output come out.
    """
    setting = parameters or Parameters(lab.vendor)
    overlay = Overlay.of(modules, lab.kernel, lab.vendor) if modules else None
    laying = overlay.commands(MODULE_ARGUMENTS.get(lab.vendor, ())) if overlay else []
    beside = {script.name: script.read_bytes(), **setting.files, **(files or {})}
    beside |= overlay.files if overlay else {}
    commands = [*laying, *setting.commands, ["/bin/python3", script.name, *words]]
    return run_inside(lab, ["list"], beside, commands)
