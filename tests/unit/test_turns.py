"""tests/conftest.py: what wants the machine's lock is run in turn, and folders run side by side."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

# A test says which worker runs it.
TELLING = """
import os
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    with open({log!r}, "a") as log:
        print(os.environ["PYTEST_XDIST_WORKER"], {folder!r}, file=log)
"""


def test_each_file_whose_tests_want_the_machine_s_lock_is_run_in_turn() -> None:
    wanting = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if "need_free_machine" in path.read_text() and path != Path(__file__)
    }
    in_turn = runpy.run_path(str(TESTS / "conftest.py"))["IN_TURN"]
    assert set(in_turn["the machine's lock"]) == wanting


def test_each_worker_begins_with_another_folder(tmp_path: Path) -> None:
    folders = ("lab", "fleet", "unit")
    for folder in folders:
        (tmp_path / "tests" / folder).mkdir(parents=True)
        for name in "abc":
            text = TELLING.format(log=str(tmp_path / "log"), folder=folder)
            (tmp_path / "tests" / folder / f"test_{folder}_{name}.py").write_text(text)
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    words = ["-p", "xdist", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir", tmp_path, *words, "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert "36 passed" in done.stdout
    first: dict[str, str] = {}
    for worker, folder in map(str.split, (tmp_path / "log").read_text().splitlines()):
        first.setdefault(worker, folder)
    assert sorted(first.values()) == sorted(folders)
