"""The tutorial's commands, run as they stand there in a copy of the checkout."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.console_blocks import play, steps

from kvmtest.cache import Cache
from kvmtest.lab.emulators.emulator import Emulator
from kvmtest.lab.target import LabTarget

ROOT = Path(__file__).resolve().parents[2]
#: Two runs in the lab, and an install, on a machine with other work.
TIMEOUT = 1800


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what git would commit here, as a clone is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this tree is no git repository")
    copy = tmp_path / "kvmtest"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def test_the_tutorial_s_commands_print_what_it_shows(
    lab: LabTarget, bochs: Emulator, checkout: Path, tmp_path: Path
) -> None:
    if not bochs.details.get("pmu"):
        pytest.skip("the distribution's emulator has no counters")
    todo = steps((ROOT / "docs/tutorial.md").read_text())
    assert len(todo) > 10
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {name: value for name, value in os.environ.items() if name.endswith("_proxy")}
    environment |= {"LC_ALL": "C.UTF-8", "KVMTEST_CACHE": str(Cache.default().root)}
    (tmp_path / "logs").mkdir()
    wrong = list(play(todo, checkout, environment, tmp_path / "logs", TIMEOUT))
    assert not wrong, "\n".join(wrong)
    page = (checkout / "fixed.html").read_text()
    assert "EMULATED" in page
