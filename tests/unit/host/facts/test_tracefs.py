"""Why no probe can be placed is told by what tracefs and lockdown look like."""

from pathlib import Path

import pytest
from support.stand_in import as_nobody, let_everyone_in, stand_in

from kvmtest.host.facts.tracefs import KPROBE_EVENTS, TRACING, why_no_kprobes

# Whether probes can be placed

MOUNTED = {"/proc/mounts": f"tracefs {TRACING} tracefs rw 0 0\n"}
LOCKDOWN = "/sys/kernel/security/lockdown"
CONFIDENTIAL = {LOCKDOWN: "none integrity [confidentiality]\n"}


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        (MOUNTED | CONFIDENTIAL, "kernel lockdown (confidentiality)", "reboot"),
        (
            MOUNTED | CONFIDENTIAL | {KPROBE_EVENTS: ""},
            "kernel lockdown (confidentiality)",
            "reboot",
        ),
        (
            MOUNTED | {"/proc/cmdline": "lockdown=confidentiality"},
            "tracefs is mounted and empty",
            "boot without lockdown=confidentiality",
        ),
        (MOUNTED | {f"{TRACING}/README": ""}, "tracefs is without it", "CONFIG_KPROBE_EVENTS"),
        ({}, "tracefs is not mounted there", "mount -t tracefs"),
        (MOUNTED | {LOCKDOWN: "[none]"}, "tracefs is mounted and empty", "lockdown"),
    ],
)
def test_why_no_probe_can_be_placed(
    tmp_path: Path, files: dict[str, str], what: str, remedy: str
) -> None:
    tree = stand_in(tmp_path, files)
    tree.path(TRACING).mkdir(parents=True, exist_ok=True)
    missing = why_no_kprobes(tree)
    assert missing is not None
    assert what in missing.what
    assert remedy in missing.remedy
    assert ("mount " in missing.remedy) is ("not mounted" in missing.what)


def test_tracefs_that_shows_kprobe_events_hides_nothing(tmp_path: Path) -> None:
    integrity = {LOCKDOWN: "none [integrity] confidentiality", KPROBE_EVENTS: ""}
    assert why_no_kprobes(stand_in(tmp_path, MOUNTED | integrity)) is None


def test_tracefs_that_may_not_be_read_asks_for_root(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, MOUNTED | {KPROBE_EVENTS: ""})
    let_everyone_in(tmp_path)
    tree.path(TRACING).chmod(0o700)
    with as_nobody():
        missing = why_no_kprobes(tree)
    assert missing is not None
    assert missing.remedy == "run as root"
