"""The runs that a path names."""

from pathlib import Path

import pytest

from kvmtest.evidence import EvidenceUnreadable
from kvmtest.evidence.folder import runs


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_a_file_is_one_run_whatever_its_name(tmp_path: Path) -> None:
    assert runs(tmp_path / "x") == {"": tmp_path / "x"}


def test_the_folder_of_a_run_is_one_run_whatever_lies_below(tmp_path: Path) -> None:
    evidence = touch(tmp_path / "evidence.json")
    touch(tmp_path / "old" / "evidence.json")
    assert runs(tmp_path) == {"": evidence}


def test_runs_are_named_by_their_places(tmp_path: Path) -> None:
    names = ("b/evidence.json", "6.12/intel/evidence.json", "6.12/intel/x.json", "matrix.json")
    files = [touch(tmp_path / name) for name in names]
    found = {"6.12/intel": files[1], "b": files[0]}
    assert list(runs(tmp_path).items()) == list(found.items())


def test_evidence_under_other_names_is_found_where_no_run_has_its_own(tmp_path: Path) -> None:
    files = [touch(tmp_path / name) for name in ("b.json", "a.json", "a.txt")]
    assert list(runs(tmp_path).items()) == [("a", files[1]), ("b", files[0])]


def test_a_folder_without_runs_is_refused_in_one_line(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "other.json")
    with pytest.raises(EvidenceUnreadable, match=r"nor a folder of runs; name what kvmtest run -o"):
        runs(tmp_path)


def test_a_folder_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    evidence = touch(tmp_path / "a" / "evidence.json")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert runs(tmp_path) == {"a": evidence}
