"""c_helpers/lab/port.c: it builds, and refuses what makes no sense."""

import os
import runpy
import subprocess
from pathlib import Path
from shutil import which

import pytest
from support.stand_in import NOBODY, let_everyone_in

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    runpy.run_path(str(ROOT / "c_helpers" / "programs.py"))["build"](folder)
    let_everyone_in(folder)
    return folder


def run_as_nobody(built: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run port without the right to use I/O ports: this machine has some, too."""
    return subprocess.run(
        [built / "inside" / "port", *words],
        user=NOBODY if os.geteuid() == 0 else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "words", [(), ("",), ("nonsense",), ("send", "more"), ("--help",)], ids=" ".join
)
def test_port_tells_its_usage_before_it_asks_for_ports(built: Path, words: tuple[str, ...]) -> None:
    done = run_as_nobody(built, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "port: usage: port breakpoint | end | receive | send\n"


@pytest.mark.parametrize("word", ["breakpoint", "end", "receive", "send"])
def test_port_says_who_may_use_ports(built: Path, word: str) -> None:
    done = run_as_nobody(built, word)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "port: I/O ports may not be used; run it as root inside the lab's machine\n"
    )


def test_port_needs_no_other_file(built: Path) -> None:
    listing = subprocess.run(["ldd", built / "inside" / "port"], capture_output=True, text=True)
    assert "not a dynamic executable" in listing.stdout + listing.stderr
