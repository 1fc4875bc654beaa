"""Jobs for the lab's machines, with what evidence says of the machine in their environment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmtest.host.facts.lab import VARIABLE
from kvmtest.lab.image import payload
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


def run_script_inside(lab: LabTarget, script: Path, parameters: Parameters | None = None) -> None:
    """Run a Python script inside; raises TargetFailed, with its last line, where it fails.

    KVM's modules get ``parameters`` before.
    """
    setting = parameters or Parameters(lab.vendor)
    files = {script.name: script.read_bytes(), **setting.files}
    run_inside(lab, ["list"], files, [*setting.commands, ["/bin/python3", script.name]])
