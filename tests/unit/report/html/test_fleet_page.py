"""A fleet has a row a host and a column a kernel; equal rows are folded, and nothing is lost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("justhtml")
from support.html_pages import assert_alone, page_of, text_of

from kvmtest.fleet.gaps import Gap, WhyNot
from kvmtest.report.fleet_run import FleetRun, with_evidence, without
from kvmtest.report.html.fleet_page import fleet_pages
from kvmtest.report.matrix_run import MatrixRun, shared

PASSED = MatrixRun("x", "6.12.1", "", "pass", shared({"any.soak": "pass"}), model="Intel X")
HOSTILE = "</style><script>alert(1)</script>\"' onclick='x\x1b[31m\u202e\ud800"


def ran(host: str, kernel: str = "new", number: int = 1, **about: Any) -> FleetRun:
    run = replace(PASSED, link=f"{host}/{kernel}/{number}/report.html", **about)
    return with_evidence(host, kernel, number, run)


def failing(host: str, kernel: str = "new", **marks: str) -> FleetRun:
    named = {id_.replace("_", "."): mark for id_, mark in marks.items()}
    wrong = [f"{id_}: {mark.upper()}: because" for id_, mark in named.items()]
    return ran(host, kernel, mark="fail", marks=shared(named), wrong=wrong)


def made(runs: Sequence[FleetRun]) -> Mapping[str, Any]:
    pages = {page.name: page_of(page.html) for page in fleet_pages(runs, "matrix.html", "pages")}
    for page in pages.values():
        assert_alone(page)
    return pages


def only(runs: Sequence[FleetRun]) -> Any:
    (page,) = made(runs).values()
    return page


def rows(page: Any) -> list[list[str]]:
    (table, *_) = page.query("table.hosts")
    return [
        [text_of(cell) for cell in body.query("tr")[0].query("td")] for body in table.query("tbody")
    ]


def test_a_cell_counts_what_decides_a_run() -> None:
    page = only([
        ran("a", "old"),
        ran("a", "new", marks=shared({"any.soak": "pass", "vmx.x": "pass", "vmx.y": "skip"})),
        failing("b", "old", any_soak="fail", vmx_x="inconclusive", vmx_y="pass"),
    ])  # fmt: skip
    assert [text_of(each) for each in page.query("table.hosts .up")] == ["old", "new"]
    assert rows(page) == [["✗1 ?1", ""], ["✓1", "✓2"]]
    links = [each.attrs["href"] for each in page.query("table.hosts td a")]
    assert links == ["b/old/1/report.html", "a/old/1/report.html", "a/new/1/report.html"]


@pytest.mark.parametrize("gap", Gap)
def test_a_run_without_evidence_says_in_its_cell_why(gap: Gap) -> None:
    why = WhyNot(gap, "uname -r is 6.1 after the reboot")
    page = only([ran("a"), without("b", "new", 1, why)])
    assert rows(page) == [[gap.value], ["✓1"]]
    told = text_of(page.query(".told tbody")[0])
    assert told == f"b new {gap}: uname -r is 6.1 after the reboot"
    assert f"1 {gap}" in text_of(page.query(".about")[0])
    assert text_of(page.query("h1")[0]) == "1 run is not good"


def test_a_lost_host_is_told_once_with_all_its_kernels() -> None:
    lost = [without("b", name, 1, WhyNot(Gap.LOST, "gone")) for name in ("old", "new")]
    page = only([ran("a", "old"), ran("a", "new"), *lost])
    assert [text_of(row) for row in page.query(".told tbody tr")] == ["b old, new lost: gone"]


def test_evidence_that_can_not_be_read_is_told_too() -> None:
    unread = with_evidence("b", "new", 1, MatrixRun("x", "unknown", "", "error", {}, failure="f"))
    assert rows(only([ran("a"), unread])) == [["unreadable"], ["✓1"]]


def test_hosts_with_the_same_outcomes_are_one_row_and_others_are_not() -> None:
    runs = [ran(f"h{n}") for n in range(5)]
    runs += [failing("f1", any_soak="fail"), failing("f2", vmx_x="fail")]
    page = only([*runs, ran("amd", model="AMD Y")])
    heads = [text_of(each) for each in page.query("table.hosts tbody tr th")]
    assert [each for each in heads if "show" in each or "f" in each[:1]] == [
        "f1 Intel X", "f2 Intel X", "5 hosts show Intel X",
    ]  # fmt: skip
    assert [text_of(each) for each in page.query("table.hosts tr.member th")] == [
        f"h{n}" for n in range(5)
    ]  # fmt: skip


def test_repetitions_stand_in_one_cell_and_equal_ones_are_counted() -> None:
    runs = [ran(host, "new", number) for host in "ab" for number in (1, 2, 3)]
    (cells,) = rows(only(runs))
    assert cells == ["✓1 \N{MULTIPLICATION SIGN}3"]
    members = only(runs).query("table.hosts tr.member")
    links = [each.attrs["href"] for each in members[0].query("a")]
    assert links == [f"a/new/{number}/report.html" for number in (1, 2, 3)]


def test_a_small_fleet_has_all_properties_on_the_same_page() -> None:
    page = only([ran("a"), failing("b", any_soak="fail")])
    (properties,) = (
        each for each in page.query("table.matrix") if "hosts" not in each.attrs["class"]
    )
    assert [text_of(each) for each in properties.query(".up")] == ["any.soak"]
    (link,) = properties.query("td a")
    assert link.attrs["href"] == "b/new/1/report.html#any.soak"


def large(hosts: int = 250) -> list[FleetRun]:
    return [
        failing(f"h{n:04}", kernel, any_soak="fail") if n % 100 == 7 else ran(f"h{n:04}", kernel)
        for n in range(hosts)
        for kernel in ("old", "new")
    ]


def test_a_large_fleet_has_pages_of_hosts_and_of_each_kernel() -> None:
    pages = made(large())
    assert list(pages) == [
        "matrix.html", "pages/hosts.html", "pages/hosts-2.html", "pages/hosts-3.html",
        "pages/kernel-0.html", "pages/kernel-1.html",
    ]  # fmt: skip
    index = pages["matrix.html"]
    # What is not good comes first.
    assert rows(index) == [["✗1", "✗1"], ["✓1", "✓1"]]
    # Every link leads to a place on another page, and every host has one.
    links = {each.attrs["href"] for each in index.query("table.hosts tbody a")}
    assert len(links) == 250
    for link in links:
        file, _, place = link.partition("#")
        assert pages[file].query(f"#{place}")
    up = [each.attrs["href"] for each in index.query("table.hosts .up a")]
    assert up == ["pages/kernel-0.html", "pages/kernel-1.html"]
    for name, page in pages.items():
        if name != "matrix.html":
            assert page.query("header a")[0].attrs["href"] == "../matrix.html"


def test_the_report_of_every_run_is_linked_from_its_host_and_from_its_kernel() -> None:
    runs = large()
    pages = made(runs)
    wanted = {f"../{each.run.link}" for each in runs}

    def linked(kind: str) -> set[str]:
        found = [
            page.query("td a, details a, th a") for name, page in pages.items() if kind in name
        ]
        return {each.attrs["href"].partition("#")[0] for links in found for each in links}

    assert wanted <= linked("hosts")
    assert wanted <= linked("kernel")


def test_a_table_of_many_different_rows_has_pages() -> None:
    marks = [{f"a.b{bit}": "fail" for bit in range(9) if n & 1 << bit} for n in range(1, 451)]
    runs = [ran(f"h{n}", mark="fail", marks=shared(each)) for n, each in enumerate(marks)]
    pages = made(runs)
    index = [name for name in pages if name.startswith("matrix")]
    assert index == ["matrix.html", "matrix-2.html", "matrix-3.html"]
    assert [len(pages[name].query("table.hosts tbody")) for name in index] == [200, 200, 50]
    nav = [each.attrs["href"] for each in pages["matrix-2.html"].query("nav.pages")[0].query("a")]
    assert nav == ["matrix.html", "matrix-3.html"]
    nav = [
        each.attrs["href"]
        for each in pages["pages/kernel-0-2.html"].query("nav.pages")[0].query("a")
    ]
    assert nav == ["kernel-0.html", "kernel-0-3.html"]


def test_all_text_stays_text_and_no_name_breaks_a_page() -> None:
    run = replace(PASSED, kernel=HOSTILE, model=HOSTILE, wrong=[HOSTILE], mark="fail")
    hostile = with_evidence(HOSTILE, HOSTILE, 1, run)
    runs = [hostile, without("b" + HOSTILE, HOSTILE, 1, WhyNot(Gap.LOST, HOSTILE))]
    page = only(runs)
    assert "<script>alert(1)</script>" in text_of(page.query("body")[0])
    many = [replace(hostile, host=f"{n}{HOSTILE}") for n in range(150)]
    assert len(made(many)) == 4
