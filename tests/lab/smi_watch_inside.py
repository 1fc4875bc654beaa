"""Runs inside the lab's Intel machine: what doctor and smi watch tell whoever counts events.

The lab raises SMIs once the watch has begun; the watch must see each, and end cleanly at Ctrl-C.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, "/package")

from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi import Periodic, choose, counts

KNOB = Path("/sys/devices/cpu/freeze_on_smi")
KVMTEST = [sys.executable, "-m", "kvmtest"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
WANTED = 3


def doctor(*words: str) -> str:
    command = [*KVMTEST, "doctor", *words]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ).stdout


def test_doctor() -> None:
    for value in (1, 0):
        KNOB.write_text(str(value))
        seen = json.loads(doctor("--json", "--seconds", "0.1"))["pollution"]
        assert (seen["freeze_on_smi"], seen["bits"]) == (value, {"0": value}), seen
        assert seen["fix"] == {"state": "present", "evidence": ["types"]}, seen
        assert seen["smis"]["counted_by"] == "MSR 0x34", seen
    five = [line.rstrip() for line in doctor().splitlines()[:5]]
    assert five[0] == "freeze_on_smi  off", five
    assert five[1] == "on every CPU   MSR 0x1d9 bit 14 is 0 on 1 of 1", five
    assert five[2] == "in guests      kept: this kernel has the fix (types)", five
    assert re.fullmatch(r"SMIs           0 a CPU in 1 s \(MSR 0x34\); \d+ since reset", five[3]), (
        five
    )
    assert five[4] == "what to do     echo 1 > /sys/devices/cpu/freeze_on_smi", five


def test_watch() -> None:
    machine = Machine(Tree())
    source, count = choose(machine, "lab"), counts(machine)
    assert isinstance(source, Periodic), source
    assert not isinstance(count, Missing), count
    command = [*KVMTEST, "smi", "watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as watch:
        assert watch.stdout
        head = watch.stdout.readline()
        assert head.startswith("SMIs counted by MSR 0x34 on 1 CPU, looked at "), head
        before = count.read(0)
        with source.raising(20, outside_guests=True):
            while count.increase(before, count.read(0)) < WANTED:
                time.sleep(0.01)
        came = count.increase(before, count.read(0))
        seen = 0
        while seen < came:
            line = watch.stdout.readline()
            told = re.fullmatch(r"\d\d:\d\d:\d\d (\d+) SMIs? on CPU 0\n", line)
            assert told, line
            seen += int(told[1])
        watch.send_signal(signal.SIGINT)
        rest = watch.stdout.read()
    assert watch.returncode == 0, watch.returncode
    assert re.fullmatch(rf"{came} SMIs? on CPU 0 in \d+\.\d s\n", rest), (came, rest)


test_doctor()
test_watch()
