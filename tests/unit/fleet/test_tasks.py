"""kvmtest/fleet/tasks.py: in which order a host makes its runs, and which runs go side by side."""

from pathlib import Path

from kvmtest.fleet.plan import parse
from kvmtest.fleet.tasks import Lane, lanes

TEXT = """\
hosts:
  emulated: {lab: intel}
  spr: {ssh: root@spr}
kernels:
  new: {debian: 6.18}
  own: {own: true}
  old: {debian: 6.1}
runs:
  - {kernels: [new, own], repeat: 2}
  - {hosts: [spr], kernels: [old, new], deadline: 60, retries: 3, options: --strict}
"""


def made(text: str = TEXT) -> list[Lane]:
    return lanes(parse(text, Path("plan.yaml")))


def test_a_host_boots_each_kernel_once_and_its_own_first() -> None:
    (spr,) = (lane for lane in made() if lane.host.name == "spr")
    assert [str(task) for task in spr.tasks] == [
        "own 1",
        "own 2",
        "new 1",
        "new 2",
        "new 3",
        "old 1",
    ]
    assert (spr.folder, spr.name) == ("spr", "spr")


def test_a_lab_machine_has_a_lane_for_each_kernel() -> None:
    lab = [lane for lane in made() if lane.host.is_lab]
    assert [[str(task) for task in lane.tasks] for lane in lab] == [
        ["own 1", "own 2"], ["new 1", "new 2"],
    ]  # fmt: skip
    assert [lane.folder for lane in lab] == ["emulated/own", "emulated/new"]
    assert [lane.name for lane in lab] == ["emulated own", "emulated new"]


def test_a_task_has_the_options_of_its_entry() -> None:
    (spr,) = (lane for lane in made() if lane.host.name == "spr")
    last, old = spr.tasks[-2:]
    assert (last.key, last.words, last.deadline, last.retries) == (("new", 3), ("--strict",), 60, 3)
    assert spr.tasks[0].words == ()
    assert old.key == ("old", 1)


def test_a_host_without_runs_has_no_lane() -> None:
    assert [
        lane.name for lane in made(TEXT.replace("{kernels: [new", "{hosts: [spr], kernels: [new"))
    ] == ["spr"]
