"""kvmtest watch sees a stock kernel's vCPU take each toggle, with and without stopping its VMM."""

from pathlib import Path

from support.lab_job import run_script_inside

from kvmtest.lab.target import LabTarget


def test_a_vcpu_of_another_process_is_told_of_each_toggle(lab: LabTarget) -> None:
    run_script_inside(lab, Path(__file__).with_name("watch_inside.py"))
