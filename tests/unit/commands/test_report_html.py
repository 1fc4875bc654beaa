"""kvmtest report --html: one run makes a page, several a matrix with the page of each."""

import json
from pathlib import Path

import pytest
from support.evidence_samples import evidence_of

pytest.importorskip("jinja2")
pytest.importorskip("justhtml")
from support.html_pages import page_of, text_of

from kvmtest.cli import main
from kvmtest.evidence import Result, save
from kvmtest.judge import Verdict

Capture = pytest.CaptureFixture[str]
SURVEY = Path(__file__).parents[3] / "docs" / "kernels.json"


def kept(folder: Path, verdict: Verdict = Verdict.PASS) -> Path:
    folder.mkdir(parents=True)
    save(evidence_of([Result("any.soak", verdict, "r")]), folder / "evidence.json")
    return folder


def test_one_run_makes_one_page(tmp_path: Path) -> None:
    run = kept(tmp_path / "run")
    page = tmp_path / "p.html"
    for named in (run, run / "evidence.json", tmp_path):
        assert main(["report", str(named), "--html", str(page)]) == 0
        shown = page_of(page.read_text())
        assert "any.soak" in text_of(shown.query("body")[0])
        assert [each.attrs["href"] for each in shown.query(".about a")] == ["run/evidence.json"]
        page.unlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run"]


def test_several_runs_make_a_matrix_whose_links_lead_to_their_pages(tmp_path: Path) -> None:
    for name in ("a/one", "a/two <b>", "b"):
        kept(tmp_path / "runs" / name)
    page = tmp_path / "all.html"
    assert main(["report", str(tmp_path / "runs"), "--html", str(page)]) == 0
    links = [each.attrs["href"] for each in page_of(page.read_text()).query("tbody a")]
    assert len(links) == 3
    for link in links:
        own = page.parent / link
        assert own.parent.name == "all-runs"
        (evidence,) = page_of(own.read_text()).query(".about a")
        assert evidence.attrs["href"].startswith("../runs/")


def test_evidence_that_can_not_be_read_is_a_row_among_others(tmp_path: Path) -> None:
    kept(tmp_path / "runs" / "good")
    kept(tmp_path / "runs" / "cut").joinpath("evidence.json").write_text('{"schema":')
    page = tmp_path / "all.html"
    assert main(["report", str(tmp_path / "runs"), "--html", str(page)]) == 0
    (failure,) = page_of(page.read_text()).query(".failure")
    assert "not JSON, or cut short" in text_of(failure)
    assert len(list((tmp_path / "all-runs").iterdir())) == 1


def test_a_matrix_has_the_name_that_was_asked_for_and_more_pages_if_need_be(tmp_path: Path) -> None:
    for at in range(230):
        verdicts = [Result(f"a.b{bit}", Verdict.FAIL, "r") for bit in range(8) if at & 1 << bit]
        place = tmp_path / "runs" / str(at)
        place.mkdir(parents=True)
        save(evidence_of(verdicts, 1), place / "evidence.json")
    page = tmp_path / "all"
    assert main(["report", str(tmp_path / "runs"), "--html", str(page)]) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "all",
        "all-2.html",
        "all-runs",
        "runs",
    ]
    first, second = (page_of((tmp_path / name).read_text()) for name in ("all", "all-2.html"))
    assert len(first.query("tbody")) + len(second.query("tbody")) == 230
    assert [each.attrs["href"] for each in second.query("nav a")] == ["all", "all"]


def test_a_survey_is_a_matrix_and_goes_with_runs(tmp_path: Path) -> None:
    run = kept(tmp_path / "run")
    page = tmp_path / "all.html"
    assert main(["report", str(SURVEY), str(run), "--html", str(page)]) == 0
    text = text_of(page_of(page.read_text()).query("body")[0])
    assert f"{len(json.loads(SURVEY.read_text())) + 1} runs" in text


def test_several_runs_are_nothing_but_a_matrix(tmp_path: Path, capsys: Capture) -> None:
    run = str(kept(tmp_path / "run"))
    assert main(["report", run, run]) == 2
    assert "name its page by --html FILE" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["missing/p.html", "run"])
def test_a_page_that_can_not_be_written_is_told(
    tmp_path: Path, capsys: Capture, place: str
) -> None:
    run = kept(tmp_path / "run")
    assert main(["report", str(run), "--html", str(tmp_path / place)]) == 3
    assert capsys.readouterr().err.startswith(f"kvmtest: can't write {tmp_path / place}: ")


def test_a_folder_for_pages_that_can_not_be_made_is_told(tmp_path: Path, capsys: Capture) -> None:
    runs = [str(kept(tmp_path / name)) for name in ("a", "b")]
    (tmp_path / "p-runs").write_text("")
    assert main(["report", *runs, "--html", str(tmp_path / "p.html")]) == 3
    assert "p-runs: File exists; choose another --html FILE" in capsys.readouterr().err
