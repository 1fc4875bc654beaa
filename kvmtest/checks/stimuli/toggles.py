"""Toggles of the knob
===================

Writes of freeze_on_smi, with the host's TSC around them.
"""

from collections.abc import Generator

from kvmtest._native import lib
from kvmtest.checks.scene import Scene
from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.judge import Absence, Reading
from kvmtest.judge.samples import Toggle

__all__ = ["toggle", "toggle_and_show"]


def toggle(scene: Scene, value: int) -> Toggle:
    """Write the knob without checking any MSR: for use while vCPUs run."""
    began = lib.clock_tsc()
    write_knob(scene.journal, scene.knob, value)
    return Toggle(value, began, lib.clock_tsc())


def toggle_and_show(scene: Scene, value: int) -> Generator[Reading | Absence, None, Toggle]:
    """Write the knob, and show that every CPU's MSR follows: see Scene.set_knob."""
    began = lib.clock_tsc()
    yield from scene.set_knob(value)
    return Toggle(value, began, lib.clock_tsc())
