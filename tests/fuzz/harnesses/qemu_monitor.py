"""lab/emulators/qemu.py: what QEMU says on its monitor."""

from pathlib import Path

from fuzz.harness import Harness
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.emulator import Hardware, Start
from kvmtest.lab.emulators.qemu import Monitor

SEED = b"""\
{"QMP": {"version": {"qemu": {"micro": 2, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}
{"return": {}}
{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}
{"timestamp": {"seconds": 1}, "event": "MIGRATION", "data": {"status": "completed"}}
{"error": {"class": "GenericError", "desc": "it failed"}}
"""


def parse(data: bytes) -> None:
    start = Start(Hardware(cpus=1), Path("boot"), state=Path("state"))
    monitor = Monitor(start)
    at = data[0] if data else 0
    monitor.answer(data[:at])
    monitor.answer(data[at:])


HARNESS = Harness(
    parse=parse,
    seeds=(SEED.rpartition(b'{"error"')[0],),
    refused=(SEED,),
    refusals=(EnvironmentUnfit,),
    longest=1024,
)
