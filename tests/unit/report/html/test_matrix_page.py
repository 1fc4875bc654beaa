"""The matrix has a row a run and a column a property; it folds what is alike and hides nothing."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.evidence_samples import BOCHS, evidence_of
from support.evidence_strategies import RUNS

pytest.importorskip("jinja2")
pytest.importorskip("justhtml")
from support.html_pages import assert_alone, page_of, text_of

from kvmtest.evidence import Evidence, Result
from kvmtest.judge import Verdict
from kvmtest.lab.survey import Surveyed
from kvmtest.report.html.matrix_page import matrix_page
from kvmtest.report.matrix_run import MatrixRun, of_evidence, of_survey, unreadable

FRESH, SOAK = "vmx.entry.fresh", "any.soak"


def run_of(name: str, kernel: str = "6.12.1", machine: str = "m", **marks: str) -> MatrixRun:
    named = {id_.replace("_", "."): mark for id_, mark in marks.items()}
    return MatrixRun(name, kernel, machine, "pass", named, link=f"runs/{name}.html")


def tree(runs: Sequence[MatrixRun]) -> Any:
    page = page_of(matrix_page(runs))
    # Pages of runs are elsewhere.
    assert_alone(page)
    return page


def rows(page: Any) -> list[list[str]]:
    return [
        [text_of(cell) for cell in row.query("td")]
        for body in page.query("tbody")
        for row in body.query("tr")[:1]
    ]


def names(page: Any) -> list[str]:
    return [text_of(each) for each in page.query("thead .up")]


def test_a_column_is_a_property_that_any_run_decided_in_the_order_of_the_table() -> None:
    page = tree(
        [
            run_of("a", any_soak="pass", svm_smm="skip"),
            run_of("b", kernel_fix="fail", any_soak="skip"),
        ]
    )
    assert names(page) == ["any.soak", "kernel.fix"]
    assert rows(page) == [["✓", ""], ["\N{EN DASH}", "✗"]]


def test_neighbours_with_the_same_verdicts_are_a_range_of_kernels() -> None:
    marks = {"5.10.9": "fail", "6.1.2": "pass", "6.1.10": "pass", "6.12.1": "fail"}
    runs = [run_of(f"r{kernel}", kernel, any_soak=mark) for kernel, mark in marks.items()]
    random.Random(1).shuffle(runs)
    page = tree(runs)
    assert [text_of(each) for each in page.query("tbody strong")] == [
        "5.10.9", "6.1.2 to 6.1.10", "6.12.1",
    ]  # fmt: skip
    folded = page.query("tbody")[1]
    assert "show 2 runs" in text_of(folded)
    assert [text_of(row) for row in folded.query("tr.member")] == [
        "6.1.2 r6.1.2 ✓", "6.1.10 r6.1.10 ✓",
    ]  # fmt: skip
    links = [each.attrs["href"] for each in folded.query("tr.member a")]
    assert links == ["runs/r6.1.2.html", "runs/r6.1.10.html"]


def test_forty_machines_with_one_kernel_fold_wherever_they_stand() -> None:
    runs = [
        run_of(
            f"n{number}", machine=f"host{number:02}", any_soak="fail" if number == 17 else "pass"
        )
        for number in range(40)
    ]
    page = tree(runs)
    assert rows(page) == [["✓"], ["✗"]]
    assert "39 machines" in text_of(page.query("tbody")[0])
    assert "host17" in text_of(page.query("tbody")[1])
    (title,) = page.query("h1")
    assert text_of(title) == "1 run is not good"
    assert "1 of 40" in text_of(page.query(".badge")[0])


def test_what_is_wrong_leads_to_the_property_on_the_page_of_its_run() -> None:
    page = tree([run_of("a", any_soak="fail", vmx_x="known", host_y="pass")])
    assert [each.attrs["href"] for each in page.query("td a")] == [
        "runs/a.html#any.soak", "runs/a.html#vmx.x",
    ]  # fmt: skip


def test_columns_and_rows_can_be_hidden_by_what_the_stylesheet_asks() -> None:
    page = tree(
        [
            run_of("a", "6.1", "one", any_soak="fail", vmx_x="pass"),
            run_of("b", "6.2", "two", any_soak="pass", vmx_x="pass"),
        ]
    )
    style = page.query("style")[0].to_text()
    for name in ("wrong-rows", "differing", "machine-0", "machine-1"):
        assert f"body:has(#{name}:checked)" in style
        assert page.query(f"#{name}")
    assert [each.attrs["class"] for each in page.query("tbody")] == [
        "of wrong machine-0", "of good machine-1",
    ]  # fmt: skip
    assert [each.attrs["class"] for each in page.query("thead .up")] == ["up", "up same"]


def test_a_run_without_verdicts_says_why() -> None:
    page = tree([unreadable("gone", "x/evidence.json: not JSON"), run_of("a", any_soak="pass")])
    failure = text_of(page.query(".failure")[0])
    assert failure == "x/evidence.json: not JSON"
    assert text_of(page.query("h1")[0]) == "1 run is not good"


def test_rows_of_evidence_say_kernel_machine_and_what_is_excused() -> None:
    known = Result(FRESH, Verdict.FAIL, "r", known_defect="docs/findings/x.md")
    evidence = evidence_of([known, Result(SOAK, Verdict.PASS, "r")], hostname="runner17")
    run = of_evidence("a", evidence, "l")
    assert (run.kernel, run.mark) == ("6.12.117", "pass")
    assert run.machine.startswith("runner17: Intel")
    assert run.marks == {FRESH: "known", SOAK: "pass"}
    strict = replace(evidence, kvmtest=replace(evidence.kvmtest, strict=True))
    assert of_evidence("a", strict, "l").marks[FRESH] == "fail"
    lab = evidence_of(lab={**BOCHS, "details": {"cpus": 1, "modules_laid_over": "kvm.ko"}})
    assert of_evidence("a", lab, "l").machine == "EMULATED Intel (Bochs 2.7, 1 CPU)"
    assert of_evidence("a", lab, "l").kernel == "6.12.117 with kvm.ko"


def survey_row(verdicts: Mapping[str, str], **about: Any) -> Surveyed:
    return Surveyed(
        "6.1.0-37-amd64", "6.1.140", "6.1.140-1", "2025-05-22", "0.1.0", "Bochs 3.0, x, 1 CPU",
        verdicts, about.pop("known_defects", {}), **about,
    )  # fmt: skip


def test_rows_of_a_survey_are_rows_too() -> None:
    row = survey_row({FRESH: "FAIL", SOAK: "PASS", "x": "?"}, known_defects={FRESH: "f"})
    run = of_survey(row)
    assert (run.kernel, run.machine, run.mark) == ("6.1.0-37-amd64", "Bochs 3.0, x, 1 CPU", "pass")
    assert run.marks == {FRESH: "known", SOAK: "pass", "x": "none"}
    assert of_survey(survey_row({}, failure="no time")).failure == "no time"
    assert of_survey(survey_row({FRESH: "FAIL"})).mark == "fail"


HOSTILE = "</style><script>alert(1)</script>\"' onclick='x"


def test_all_text_stays_text() -> None:
    evidence = evidence_of(
        [Result(HOSTILE, Verdict.FAIL, "r")], 1, hostname=HOSTILE, release=HOSTILE
    )
    page = tree([of_evidence(HOSTILE, evidence, "runs/1.html"), unreadable(HOSTILE, HOSTILE)])
    assert HOSTILE in page.query("tbody")[0].to_text()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(RUNS, min_size=2, max_size=5))
def test_any_runs_make_a_valid_page_with_all_of_them(evidences: list[Evidence]) -> None:
    runs = [of_evidence(f"r{n}", each, f"runs/{n}.html") for n, each in enumerate(evidences)]
    page = page_of(matrix_page(runs))
    shown = {each.attrs["href"].partition("#")[0] for each in page.query("tbody a")}
    assert shown == {run.link for run in runs}


def test_the_survey_of_the_project_makes_a_page() -> None:
    from kvmtest.commands.lab_survey import load

    surveyed = load(Path(__file__).parents[4] / "docs" / "kernels.json").values()
    page = tree([of_survey(row) for row in surveyed])
    assert len(page.query("tbody")) < len(surveyed) / 3
    members = len(page.query("tr.member")) + sum(
        len(body.query("tr")) == 1 for body in page.query("tbody")
    )
    assert members == len(surveyed)
