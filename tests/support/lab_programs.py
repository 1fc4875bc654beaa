"""Reproducers in the lab: compiled to run anywhere, run inside, and what they printed there."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from kvmtest.lab.parameters import Parameters
from kvmtest.lab.target import LabTarget
from support.kunit import parsers
from support.lab_job import run_script_inside

__all__ = ["compiled", "ended_inside"]

_INSIDE = Path(__file__).parents[1] / "lab" / "reproducers_inside.py"


def compiled(folder: Path, name: str) -> dict[str, bytes]:
    """Have make build the program of that name in its folder; return its file for a machine."""
    command = ["make", "-C", str(folder), "CFLAGS=-O2 -Wall -Wextra -Werror", "LDFLAGS=-static"]
    subprocess.run(command, check=True)
    return {f"{name}.program": (folder / name).read_bytes()}


def ended_inside(
    lab: LabTarget, programs: Mapping[str, bytes], modules: Path | None = None
) -> dict[str, tuple[int, str]]:
    """Run programs inside; return the exit status of each and what it printed.

    The kernel's own parser of KTAP must come to the same end. Raises TargetFailed where a program
    leaves the host's settings otherwise than it found them.
    """
    parameters = Parameters.parse(["kvm_intel.unrestricted_guest=0"], lab.vendor)
    output = run_script_inside(lab, _INSIDE, parameters, programs, modules)
    ended = {}
    for path, printed in output.files.items():
        name, _, status = path.rpartition(".")
        ended[name] = (int(status), printed.decode())
    for status, text in ended.values():
        if status in (0, 1):
            assert [kunit.status(text) for kunit in parsers()] == [status]
    return ended
