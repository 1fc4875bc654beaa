"""commands/lab_survey.py: the data of surveys before, which a new one is added to."""

import json
from dataclasses import asdict

from fuzz.harness import Harness
from fuzz.json_mutator import mutate
from fuzz.scratch import scratch
from kvmtest.commands.lab_survey import load, save
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.survey import Surveyed

ROW = Surveyed(
    "6.12.7-amd64", "6.12.7", "6.12.7-1", "2026-01-02", "0.1", "Bochs 2.7, i7, 2 CPU",
    {"vmx.entry.fresh": "FAIL", "kernel.fix-present": "PASS"},
    {"vmx.entry.fresh": "docs/findings/a.md"},
)  # fmt: skip


def parse(data: bytes) -> None:
    folder = scratch("survey")
    path = folder / "kernels.json"
    path.write_bytes(data)
    save(folder, load(path))


HARNESS = Harness(
    parse=parse,
    seeds=(json.dumps([asdict(ROW), {**asdict(ROW), "lab": "amd", "cpus": 1}]).encode(), b"[]"),
    refusals=(EnvironmentUnfit,),
    mutate=mutate,
)
