"""kvmtest reproduce writes a C file and a Makefile, or says what there is."""

from pathlib import Path

import pytest

from kvmtest.cli import main
from kvmtest.reproducers import REPRODUCERS, c_source, find

Capture = pytest.CaptureFixture[str]
NAME = "lost-dr6-while-emulating"


@pytest.mark.parametrize("name", [NAME, f"docs/findings/{NAME}.md", "vmx.entry.toggled"])
def test_it_writes_the_program_and_says_how_to_run_it(
    tmp_path: Path, capsys: Capture, name: str
) -> None:
    folder = tmp_path / "a new folder"
    assert main(["reproduce", name, "-o", str(folder)]) == 0
    known = find(name)
    assert capsys.readouterr().out == f"make -C '{folder}' run\n"
    assert {path.name for path in folder.iterdir()} == {f"{known.name}.c", "Makefile"}
    assert (folder / f"{known.name}.c").read_text() == c_source(known)
    assert f"\n{known.name}: {known.name}.c\n" in (folder / "Makefile").read_text()


def test_without_a_name_all_are_listed(capsys: Capture) -> None:
    assert main(["reproduce"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{each.name} " in listed for each in REPRODUCERS)


@pytest.mark.parametrize("name", ["nothing", "", "../verdicts", "\x1b]0;title\x07"])
def test_a_malformed_name_is_one_line_with_what_can_be_reproduced(
    tmp_path: Path, capsys: Capture, name: str
) -> None:
    assert main(["reproduce", name, "-o", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert all(each.name in captured.err for each in REPRODUCERS)
    assert not (tmp_path / "out").exists()


def test_a_folder_must_be_named_and_new(tmp_path: Path, capsys: Capture) -> None:
    assert main(["reproduce", NAME]) == 2
    assert "-o DIR" in capsys.readouterr().err
    (tmp_path / "mine").touch()
    assert main(["reproduce", NAME, "-o", str(tmp_path)]) == 2
    assert "choose a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
