"""The runs that the paths of a command name, and those that can't be read."""

from pathlib import Path

import pytest
from support.evidence_samples import evidence_of

from kvmtest.commands.named_runs import NamedRuns
from kvmtest.evidence import EvidenceUnreadable, save

Capture = pytest.CaptureFixture[str]


def kept(folder: Path, text: str = "") -> Path:
    folder.mkdir(parents=True)
    path = folder / "evidence.json"
    if text:
        path.write_text(text)
    else:
        save(evidence_of(release=folder.name), path)
    return path


def test_runs_have_the_names_by_which_a_user_finds_them(tmp_path: Path) -> None:
    single = kept(tmp_path / "single")
    for name in ("all/a/1", "all/a/2", "all/b"):
        kept(tmp_path / name)
    named = dict(NamedRuns([single, tmp_path / "all"]))
    assert list(named) == [str(single), *(f"{tmp_path}/all/{name}" for name in ("a/1", "a/2", "b"))]
    assert [run.kernel.release for run in named.values()] == ["single", "1", "2", "b"]


def test_evidence_that_can_not_be_read_is_told_and_counted(tmp_path: Path, capsys: Capture) -> None:
    kept(tmp_path / "a")
    cut = kept(tmp_path / "b", "{")
    runs = NamedRuns([tmp_path])
    for _ in range(2):
        assert [name for name, _ in runs] == [f"{tmp_path}/a"]
        assert runs.unread == 1
        assert f"kvmtest: left out: {cut}: not JSON" in capsys.readouterr().err


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    kept(tmp_path / "a", "{")
    kept(tmp_path / "b", "[]")
    with pytest.raises(EvidenceUnreadable, match="no schema"):
        list(NamedRuns([tmp_path]))
