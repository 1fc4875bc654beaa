"""A run gets a new or an empty folder, and no file of another is touched."""

from pathlib import Path

import pytest
from support.evidence_samples import evidence_of
from support.stand_in import as_nobody, let_everyone_in

from kvmtest.errors import UsageError
from kvmtest.evidence import Result
from kvmtest.judge import Verdict
from kvmtest.run_folder import attachments, new_folder, write_reports


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


# What a CI job can attach


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's project, where the job begins."""
    folder = tmp_path / "project"
    for name in ("out", "sub"):
        (folder / name).mkdir(parents=True)
    (folder / "out" / "kernel.log").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CI_PROJECT_DIR", raising=False)
    return folder


@pytest.mark.parametrize("named", ["out", "./out", "sub/../out", "{project}/out"])
def test_attachments_are_named_from_the_folder_of_the_project(project: Path, named: str) -> None:
    evidence = Path(named.format(project=project), "evidence.json")
    assert attachments(evidence) == ("out/evidence.json", "out/kernel.log")


def test_a_job_that_went_elsewhere_names_them_from_the_project_all_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_PROJECT_DIR", str(project))
    monkeypatch.chdir(project / "out")
    assert attachments(Path("evidence.json")) == ("out/evidence.json", "out/kernel.log")


def test_a_log_that_is_not_there_is_not_attached(project: Path) -> None:
    (project / "out" / "kernel.log").unlink()
    assert attachments(Path("out/evidence.json")) == ("out/evidence.json", "")


def test_files_outside_of_the_project_are_not_attached(project: Path) -> None:
    assert attachments(project.parent / "evidence.json") == ("", "")
    assert attachments(Path("../evidence.json")) == ("", "")


@pytest.mark.parametrize("name", ["a]]b", "a\nb"])
@pytest.mark.usefixtures("project")
def test_a_name_that_would_end_the_mark_is_not_attached(name: str) -> None:
    assert attachments(Path(name, "evidence.json")) == ("", "")


@pytest.mark.usefixtures("project")
def test_the_junit_of_a_run_has_its_evidence_attached() -> None:
    failed = Result("any.soak", Verdict.FAIL, "r")
    write_reports(evidence_of([failed], 1), Path("out"))
    assert "[[ATTACHMENT|out/evidence.json]]" in Path("out/junit.xml").read_text()
