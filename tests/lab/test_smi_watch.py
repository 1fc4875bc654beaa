"""On a stock kernel doctor answers whoever counts events, and smi watch sees each SMI."""

from pathlib import Path

from support.lab_job import run_script_inside

from kvmtest.lab.target import LabTarget


def test_doctor_and_smi_watch_see_the_lab_s_smis(lab: LabTarget) -> None:
    run_script_inside(lab, Path(__file__).with_name("smi_watch_inside.py"))
