"""kvmtest/commands/fleet_matrix.py: what a fleet's results become, whatever hosts sent."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from junitparser import JUnitXml
from support.fleets import fleet, keep, plan_text, tell

pytest.importorskip("jinja2")
pytest.importorskip("justhtml")
from support.html_pages import assert_alone, page_of, text_of

from kvmtest.commands import matrix_rows
from kvmtest.commands.fleet_matrix import write_matrix
from kvmtest.fleet.course import Boot, Ended, Ending, Restore, Run
from kvmtest.fleet.plan import parse
from kvmtest.judge import Verdict

DONE = Ended(Ending.DONE)
PASS, FAIL = {"any.soak": Verdict.PASS}, {"any.soak": Verdict.FAIL}


def runs_of(folder: Path) -> dict[str, str]:
    data = json.loads((folder / "matrix.json").read_text())
    return {
        f"{each['host']}/{each['kernel']}": each.get("gap") or each.get("failure") or each["good"]
        for each in data["runs"]
    }


def test_evidence_and_ledgers_become_pages_json_and_junit(tmp_path: Path) -> None:
    results = fleet(tmp_path, ["a", "b"], ["old", "new"])
    for place in ("a/old/1", "a/new/1"):
        keep(tmp_path, place, PASS)
    keep(tmp_path, "b/old/1", FAIL)
    steps = [Boot("old"), DONE, Run("old", 1), DONE, Boot("new")]
    tell(results, "b", *steps, Ended(Ending.LOST, "no answer"), Restore(), Ended(Ending.LOST, "x"))
    runs = write_matrix(results)
    assert [each.name for each in runs] == ["a/old/1", "a/new/1", "b/old/1", "b/new/1"]
    assert runs_of(tmp_path) == {"a/old": True, "a/new": True, "b/old": False, "b/new": "lost"}
    page = page_of((tmp_path / "matrix.html").read_text())
    assert_alone(page)
    assert "lost: no answer" in text_of(page.query(".told")[0])
    links = {each.attrs["href"].partition("#")[0] for each in page.query("table a")}
    assert links == {f"{place}/report.html" for place in ("a/old/1", "a/new/1", "b/old/1")}
    for link in links:
        assert page_of((tmp_path / link).read_text()).query("h1")
    junit = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    assert [(suite.name, suite.failures, suite.errors) for suite in junit] == [
        ("a", 0, 0), ("b", 1, 1),
    ]  # fmt: skip


def test_a_matrix_of_results_that_have_just_begun_has_all_runs(tmp_path: Path) -> None:
    write_matrix(fleet(tmp_path, ["a", "b"], ["old", "new"]))
    assert set(runs_of(tmp_path).values()) == {"not run"}


def test_evidence_that_was_kept_and_is_gone_is_a_gap(tmp_path: Path) -> None:
    results = fleet(tmp_path, ["a"], ["new"])
    tell(results, "a", Boot("new"), DONE, Run("new", 1), DONE)
    (run,) = write_matrix(results)
    assert run.run.failure == "no result: its evidence was kept, and is gone"


def test_made_again_it_leaves_no_page_of_before(tmp_path: Path) -> None:
    results = fleet(tmp_path, [f"h{n}" for n in range(150)], ["new"])
    write_matrix(results)
    assert len(list((tmp_path / "matrix-runs").iterdir())) == 3
    few = parse(plan_text("abc", ["new"]), Path("plan.yaml"))
    write_matrix(replace(results, plan=few))
    assert list((tmp_path / "matrix-runs").iterdir()) == []
    assert (tmp_path / "matrix.html").exists()


def test_of_too_many_runs_those_that_are_not_good_get_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = fleet(tmp_path, "abcd", ["new"])
    monkeypatch.setattr(matrix_rows, "PAGES", 2)
    for host in "abc":
        keep(tmp_path, f"{host}/new/1", PASS)
    (tmp_path / "a/new/1/ktap.txt").write_text("KTAP version 1\n")
    keep(tmp_path, "d/new/1", FAIL)
    write_matrix(results)
    made = sorted(path.parts[-4] for path in tmp_path.glob("*/*/*/report.html"))
    assert made == ["a", "d"]
    page = page_of((tmp_path / "matrix.html").read_text())
    links = {each.attrs["href"] for each in page.query("table.hosts a")}
    assert links == {
        "a/new/1/report.html", "b/new/1/evidence.json", "c/new/1/evidence.json",
        "d/new/1/report.html",
    }  # fmt: skip


HOSTILE = {
    "deep": '{"schema": ' + "[" * 100_000,
    "deep inside": '{"schema": "kvmtest-evidence/1", "host": ' + "[" * 900 + "]" * 900 + "}",
    "cut short": '{"schema": "kvmtest-evidence/1", "results": [{"id": "any.so',
    "not JSON": "\x00\x1b]0;owned\x07<script>",
    "a list": "[]",
    "surrogates": '{"schema": "\\ud800\\u001b[31m<script>"}',
    "a huge number": '{"schema": ' + "9" * 1_000_000 + "}",
    "another schema": '{"schema": "kvmtest-evidence/' + "9" * 1_000_000 + '"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_evidence_is_one_row_and_no_more(tmp_path: Path, text: str) -> None:
    results = fleet(tmp_path, ["good", "bad"], ["new"])
    keep(tmp_path, "good/new/1", PASS)
    keep(tmp_path, "bad/new/1", PASS).write_text(text)
    write_matrix(results)
    found = runs_of(tmp_path)
    assert found["good/new"] is True
    assert str(tmp_path / "bad/new/1/evidence.json") in found["bad/new"]
    assert found["bad/new"].isprintable()
    assert len(found["bad/new"]) <= 400
    assert_alone(page_of((tmp_path / "matrix.html").read_text()))
    assert JUnitXml.fromfile(str(tmp_path / "junit.xml")).errors == 1


def test_evidence_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    results = fleet(tmp_path, ["good", "bad"], ["new"])
    keep(tmp_path, "good/new/1", PASS)
    file = keep(tmp_path, "bad/new/1", PASS)
    data = json.loads(file.read_text())
    text = json.dumps({**data, "host": {"knob": "LISTS"}})
    # An empty list is 3 bytes here and 64 there.
    file.write_text(text.replace('"LISTS"', f"[{'[],' * 8_000_000}[]]"))
    write_matrix(results)
    found = runs_of(tmp_path)
    assert found["good/new"] is True
    assert found["bad/new"].endswith("it needs more than 256 MiB of memory")


def test_evidence_that_fits_the_schema_may_say_anything(tmp_path: Path) -> None:
    results = fleet(tmp_path, ["bad"], ["new"])
    text = "</style><script>alert(1)</script>\x1b[31m\u202e\x00\ud800"
    file = keep(tmp_path, "bad/new/1", FAIL, hostname=text, release=text * 10_000)
    data = json.loads(file.read_text())
    (result,) = data["results"]
    many = [{**result, "id": f"a{n}.b", "reason": text * 100} for n in range(3000)]
    file.write_text(json.dumps({**data, "results": [{**result, "reason": text}, *many]}))
    write_matrix(results)
    page = (tmp_path / "matrix.html").read_text()
    assert_alone(page_of(page))
    assert len(page) < 100_000
    for name in ("matrix.html", "matrix.json", "junit.xml"):
        written = (tmp_path / name).read_text()
        assert "<script>" not in written.replace('"<script>', "") or name == "matrix.json"
        assert all(char.isprintable() or char in "\n\t" for char in written)
    assert (tmp_path / "matrix.json").stat().st_size < 20_000
