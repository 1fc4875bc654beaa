"""The kernel's own checkpatch.pl has nothing to say about the reproducers.

Where it can't be had these tests are skipped, with KVMTEST_LAB_TESTS=required or all in the
environment failed.
"""

import os
import subprocess
from pathlib import Path

import pytest
from support.kernel_source import fetched

from kvmtest.errors import KvmtestError
from kvmtest.reproducers import REPRODUCERS, Reproducer, c_source

WANTED = ("scripts/checkpatch.pl", "scripts/spelling.txt", "scripts/const_structs.checkpatch")
#: What checkpatch.pl imports of perl, of which a bare Debian has but the base.
MODULES = ("perl", "-MPOSIX", "-MTerm::ANSIColor", "-MEncode", "-e1")


@pytest.fixture(scope="session")
def checkpatch() -> Path:
    try:
        if subprocess.run(MODULES, capture_output=True, check=False).returncode:
            raise KvmtestError("perl lacks modules (Debian: install perl)")
        return fetched("checkpatch", *WANTED) / WANTED[0]
    except (KvmtestError, FileNotFoundError) as error:
        if os.environ.get("KVMTEST_LAB_TESTS") in ("required", "all"):
            pytest.fail(str(error))
        pytest.skip(f"needs the kernel's checkpatch.pl: {error}")


def complaints(checkpatch: Path, text: str, folder: Path) -> str:
    path = folder / "program.c"
    path.write_text(text)
    command = ["perl", str(checkpatch), "-q", "--no-tree", "--strict", "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("reproducer", REPRODUCERS, ids=lambda each: each.name)
def test_it_finds_nothing(reproducer: Reproducer, checkpatch: Path, tmp_path: Path) -> None:
    assert complaints(checkpatch, c_source(reproducer), tmp_path) == ""


def test_it_finds_what_is_wrong(checkpatch: Path, tmp_path: Path) -> None:
    text = c_source(REPRODUCERS[0]).replace("\t", "    ", 1)
    assert "please, no spaces at the start of a line" in complaints(checkpatch, text, tmp_path)
