"""A unit test stands where what it tests stands: host/test_tree.py tests kvmtest/host/tree.py."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Where else a folder of tests has its counterpart, from the checkout's top.
FOLDERS = {
    "c_helpers": "c_helpers",
    "docs": "tools",
    "fuzz": "tests/fuzz",
    "support": "tests/support",
}
#: Tests of what is in no single place.
ELSEWHERE = {
    "docs/test_manual.py": "docs/conf.py, which makes the manual of all pages",
    "docs/test_repository.py": "the files for whoever joins, at the top of the checkout",
    "docs/test_tour.py": "docs/tour.md, which names files everywhere",
    "report/test_readers.py": "what other projects' parsers make of every report",
    "report/test_recorded.py": "every report of the runs in tests/recorded",
    "test_layers.py": "the imports of all modules",
    "test_mirror.py": "this",
    "test_turns.py": "tests/conftest.py, and every test that wants the machine's lock",
}

TESTS = [str(path.relative_to(HERE)) for path in sorted(HERE.rglob("test_*.py"))]


def has_counterpart(test: str) -> bool:
    folder, _, rest = test.partition("/")
    path = ROOT / FOLDERS[folder] / rest if folder in FOLDERS else ROOT / "kvmtest" / test
    name = path.stem.removeprefix("test_")
    return path.with_name(name).is_dir() or any(path.parent.glob(f"{name}.*"))


@pytest.mark.parametrize("test", TESTS)
def test_it_stands_where_what_it_tests_stands(test: str) -> None:
    assert has_counterpart(test) != (test in ELSEWHERE)


def test_what_is_listed_exists() -> None:
    assert set(ELSEWHERE) <= set(TESTS)
