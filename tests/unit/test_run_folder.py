"""A run gets a new or an empty folder, and no file of another is touched."""

from pathlib import Path

import pytest
from support.stand_in import as_nobody, let_everyone_in

from kvmtest.errors import UsageError
from kvmtest.run_folder import new_folder


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "a" / "b").is_dir()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert new_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("evidence.json", "it holds another run's files; choose a new folder"),
        ("thesis.tex", r"it holds files \(thesis.tex\); choose a new folder"),
    ],
)
def test_a_folder_with_files_is_refused_and_left_alone(
    tmp_path: Path, held: str, said: str
) -> None:
    (tmp_path / held).write_text("dear")
    with pytest.raises(UsageError, match=said):
        new_folder(tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(held, "dear")]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="choose another folder"):
            new_folder(path)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o555])
def test_a_folder_that_can_not_be_written_is_refused_before_the_run(
    tmp_path: Path, mode: int
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=mode)
    folder.chmod(mode)
    let_everyone_in(tmp_path)
    with as_nobody(), pytest.raises(UsageError, match="Permission denied; choose another"):
        new_folder(folder)
