"""tests/conftest.py: what wants the machine's lock is run in turn."""

import runpy
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_each_file_whose_tests_want_the_machine_s_lock_is_run_in_turn() -> None:
    wanting = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if "need_free_machine" in path.read_text() and path != Path(__file__)
    }
    in_turn = runpy.run_path(str(TESTS / "conftest.py"))["IN_TURN"]
    assert set(in_turn["the machine's lock"]) == wanting
