"""c_helpers/bochs/state.c: a saved machine without these counters is refused."""

import os
import subprocess
from pathlib import Path

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.bochs.patched import Bochs
from kvmtest.lab.emulators.emulator import Hardware


def emulator() -> Bochs:
    try:
        return Bochs.find()
    except EnvironmentUnfit as unfit:
        pytest.skip(str(unfit))


@pytest.mark.parametrize("state", [None, b"", b"kvmtest pmu\0\0\0\0\0" + b"\xff" * 400])
def test_a_state_without_these_counters_is_refused(tmp_path: Path, state: bytes | None) -> None:
    found = emulator()
    if not found.is_known:
        pytest.skip("needs the build of Bochs that the extension knows")
    if state is not None:
        (tmp_path / "kvmtest-pmu").write_bytes(state)
    done = subprocess.run(
        found.restore(tmp_path, Path(os.devnull)), env=found.environment(Hardware()),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 75
    assert done.stderr == (
        f"bochs: the state in {tmp_path} has no counters of this extension; save the machine anew\n"
    )
