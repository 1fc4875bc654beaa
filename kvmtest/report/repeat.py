"""The command that repeats a run
==============================

Every report that a reader may doubt says how to run it again.
"""

import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise

from kvmtest.evidence import Evidence, LabRecord
from kvmtest.run_options import options

__all__ = ["command", "command_of"]

#: Emulators, with a part of the board's name, and the lab's machine.
_MACHINES = (("Bochs", "", "intel"), ("QEMU", "q35", "amd-uefi"), ("QEMU", "", "amd"))
_DEBIAN = "Debian's "
#: What a property may need that the user must ask for, and what it was decided with.
_OF_PROPERTY = ("--allow-other-vms", "--reload-modules", "--hotplug", "--smi-source")
#: What the lab's own run inside says, and lab run says by itself.
_OF_LAB = ("--schedule-steps", "--smi-source")


def command(evidence: Evidence) -> str:
    """Return the command that repeats the run, as a shell takes it."""
    said = evidence.kvmtest.command
    lab = evidence.machine.lab
    if not lab:
        return shlex.join(said)
    flags = [flag for each in options() if each.in_lab for flag in each.flags]
    return shlex.join([*_lab_run(evidence, lab), *_kept(said, flags)])


def command_of(evidence: Evidence, property_id: str) -> str:
    """Return the command that decides one property again, as a shell takes it."""
    lab = evidence.machine.lab
    words = _lab_run(evidence, lab) if lab else ["kvmtest", "run"]
    kept = _kept(evidence.kvmtest.command, _OF_LAB if lab else _OF_PROPERTY)
    return shlex.join([*words, *kept, "--only", property_id])


def _lab_run(evidence: Evidence, lab: LabRecord) -> Iterator[str]:
    """Give the words that put the same machine together, as far as evidence names its parts."""
    yield from ("kvmtest", "lab", "run")
    details = lab.details
    board = str((details and details.board) or "")
    for emulator, part, machine in _MACHINES:
        if emulator == lab.emulator and part in board:
            yield from ("--machine", machine)
            break
    if details is None:
        return
    if details.cpus:
        yield from ("--cpus", str(details.cpus))
    if evidence.kernel.release and (details.kernel or "").startswith(_DEBIAN):
        yield from ("--kernel", evidence.kernel.release)
    for feature in (details.shown_cpu_features or "").split():
        yield from ("--show-cpu-feature", feature)
    for parameter in (details.kvm_parameters or "").split():
        yield from ("--kvm-parameter", parameter)


def _kept(words: Sequence[str], flags: Sequence[str]) -> Iterator[str]:
    """Give those of a command's words that set one of ``flags``, with their values."""
    with_value = {flag for each in options() if each.metavar for flag in each.flags}
    for word, following in pairwise([*words, ""]):
        flag, equals, _ = word.partition("=")
        if flag in flags:
            yield word
            if flag in with_value and not equals:
                yield following
