"""SMIs by the sensors of Dell's firmware
======================================

The driver dell-smm-hwmon (drivers/hwmon) asks the firmware for each temperature and fan speed by an
SMI, on CPU 0. Any monitor reads them: this is gentle, and works under lockdown. On some machines a
read takes long, which the driver's documentation says of fans, and that limits the rate.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmtest.errors import KvmtestError
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Triggered, opened_file

__all__ = ["find"]

_HWMON = "/sys/class/hwmon"
_NAME = "dell_smm"
# Temperatures first: some machines take half a second for a fan's speed.
_SENSORS = ("temp*_input", "fan*_input")


def find(machine: Machine, _: str) -> Triggered | Missing:
    """Return the source that reads the first sensor, or what is missing."""
    sensor = _sensor(machine.tree)
    if isinstance(sensor, Missing):
        return sensor

    @contextmanager
    def opened() -> Iterator[Fire]:
        with opened_file(sensor, os.O_RDONLY) as fd:
            yield lambda: _read(fd, sensor)

    return Triggered(
        "dell-smm-hwmon",
        f"reads the sensor {sensor.name} of Dell's firmware",
        "nothing",
        fastest_hz=20,
        longest_s=0.5,
        opened=opened,
    )


def _sensor(tree: Tree) -> Path | Missing:
    """Return the file of a sensor that can be read."""
    names = tree.glob(f"{_HWMON}/*/name")
    folders = [name.parent for name in names if _text(name) == _NAME]
    if not folders:
        return Missing(
            f"no sensors of the driver dell-smm-hwmon in {_HWMON}",
            "on a machine made by Dell: modprobe dell-smm-hwmon",
        )
    for pattern in _SENSORS:
        for folder in folders:
            for sensor in sorted(folder.glob(pattern)):
                if os.access(sensor, os.R_OK, effective_ids=True):
                    return sensor
    return Missing(f"{folders[0]} shows no temperature and no fan that may be read", "run as root")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _read(fd: int, sensor: Path) -> None:
    try:
        os.pread(fd, 64, 0)
    except OSError as error:
        raise KvmtestError(
            f"can't read {sensor}: {error.strerror}; use another SMI source"
        ) from error
