import json
import runpy
from pathlib import Path

import pytest

from kvmtest.interleave.model import final_bit
from kvmtest.interleave.schedule import Does, has, schedules, vcpus_of

PROJECT = Path(__file__).resolve().parents[3]
DATA = json.loads((PROJECT / "docs" / "schedules.json").read_text())


def test_the_schedules_page_is_what_its_data_make() -> None:
    tool = runpy.run_path(str(PROJECT / "tools" / "schedules_doc.py"))
    assert tool["TARGET"].read_text() == tool["document"]()


@pytest.mark.parametrize("prop", DATA)
def test_all_schedules_were_played_up_to_six_steps(prop: str) -> None:
    rows = DATA[prop]["rows"]
    for hotplug in (False, True):
        lengths = [row["length"] for row in rows if ("h" in row["steps"]) is hotplug]
        assert lengths == [1, 2, 3, 4, 5, 6]
    for row in rows:
        listed = schedules([Does(letter) for letter in row["steps"]], row["length"])
        must = [Does(letter) for letter in "eh" if letter in row["steps"]]
        chosen = [s for s in listed if all(has(s, does) for does in must)]
        assert row["played"] == len(chosen)
        assert row["looks"] == sum(len(vcpus_of(s)) for s in chosen)
        losing = [s for s in chosen if any(_loses(s, v) for v in vcpus_of(s))]
        assert row["wrong"] == len(losing)


def _loses(schedule: tuple, vcpu: int) -> bool:
    return final_bit(schedule, vcpu) != final_bit(schedule, vcpu, loses=True)
