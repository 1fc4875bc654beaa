"""A TD is watched as any guest is, on the stand-in for KVM's TDX: its windows, gaps and clock.

No SMI can be raised there, and no counter counts a TD. So the figures of tdx.leak.host-events are
held to windows that a test makes up (tests/unit/checks/tdx/test_leak.py).
"""

import json
import sys
from pathlib import Path

from support.stand_in import need_kvm
from support.under_tdx import under_tdx
from support.watched_td import RATE_HZ, WINDOWS

from kvmtest.checks.leaks.smis import SMIS_PER_WINDOW
from kvmtest.host.facts.tsc import tsc_hz


def test_windows_of_tds_are_as_long_as_asked_and_hold_their_gaps(tmp_path: Path) -> None:
    need_kvm()
    ran = under_tdx(sys.executable, "-m", "support.watched_td", folder=tmp_path)
    assert ran.status == 0, ran.err
    seen = json.loads(ran.out)
    assert seen["refused"] == seen["tds"] > 0, "KVM tells no TD's TSC"
    assert len(seen["windows"]) == WINDOWS * seen["tds"]
    asked = int(SMIS_PER_WINDOW / RATE_HZ * tsc_hz())
    for window in seen["windows"]:
        assert window["ticks"] >= asked, "the window is the watch's own KVM_RUN"
        assert window["polls"] > 0
        assert len(window["gaps"]) == window["seen"]
        # The tracer's stops around a KVM_RUN make the clock's offset unsure.
        slack = window["ticks"] // 2
        for began, ended in window["gaps"]:
            assert -slack < began < ended < window["ticks"] + slack
