"""Templates escape what they are filled with, and Jinja2 is asked for where it is missing."""

import sys
from pathlib import Path

import pytest
from support.evidence_samples import evidence_of

pytest.importorskip("jinja2")

from kvmtest.cli import main
from kvmtest.evidence import save
from kvmtest.report.html import rendering


def test_missing_jinja2_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    rendering._environment.cache_clear()
    save(evidence_of(), tmp_path / "evidence.json")
    assert main(["report", str(tmp_path), "--html", str(tmp_path / "p.html")]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "python3 -m pip install 'kvmtest[html]'" in said
    assert not (tmp_path / "p.html").exists()


def test_every_template_is_shipped() -> None:
    names = {path.name for path in rendering._FOLDER.iterdir()}
    assert {"base.html", "run.html", "parts.html", "style.css", "mail.txt"} <= names


def test_the_stylesheet_has_nothing_that_ends_its_element() -> None:
    assert "</" not in (rendering._FOLDER / "style.css").read_text()
