"""Runs inside the lab's Intel machine: pytest over the tests of tests/kvm that came with it."""

import contextlib
import ctypes
import sys
from pathlib import Path

JOB, OUTPUT = Path("/job"), Path("/tmp/output")


def run(words: list[str]) -> int:
    """Run pytest with what came with the job; return its exit status."""
    sys.path[:0] = ["/package", str(JOB / "libraries")]
    for library in JOB.glob("shared/*"):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    import pytest
    from hypothesis import HealthCheck, settings

    # The machine is slow, and the host has tried more examples.
    settings.register_profile(
        "few",
        max_examples=4,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("few")
    return int(pytest.main(["-p", "no:cacheprovider", "-q", "--tb=short", *words]))


OUTPUT.mkdir(parents=True, exist_ok=True)
with (OUTPUT / "pytest.txt").open("w") as file, contextlib.redirect_stdout(file):
    status = run(sys.argv[1:])
(OUTPUT / "status").write_text(str(status))
