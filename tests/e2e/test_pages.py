"""Pages are valid by the W3C's checker, and work in a browser: narrow, dark, filtered, on paper."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.browser import Browser, complaints
from support.evidence_samples import evidence_of
from support.leak_simulation import readings, simulated

pytest.importorskip("jinja2")

from kvmtest.cli import main
from kvmtest.evidence import Result, load, save
from kvmtest.fleet.gaps import Gap, WhyNot
from kvmtest.judge import Verdict, judge
from kvmtest.judge.leak import conclude
from kvmtest.report.fleet_run import FleetRun, with_evidence, without
from kvmtest.report.html.fleet_page import fleet_pages
from kvmtest.report.html.matrix_page import matrix_page
from kvmtest.report.html.run_page import run_page
from kvmtest.report.html.source import Source
from kvmtest.report.matrix_run import of_evidence, of_survey

ROOT = Path(__file__).parents[2]
RECORDED = sorted((ROOT / "tests" / "recorded").glob("*.json"))
WIDE, NARROW = 1280, 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The page of a run of the lab, with figures and with words that do not break."""
    (path,) = (path for path in RECORDED if path.stem == "intel-lab")
    evidence = load(path)
    samples = simulated(rounds=9, leaks=True)
    concluded = conclude(samples)
    judged = judge(concluded)
    leak = Result(
        "vmx.leak.host-events", judged.verdict, judged.reason, readings=readings(samples, concluded)
    )
    long = Result("any.soak", Verdict.FAIL, "x" * 300, detail="y" * 300)
    others = [each for each in evidence.results if each.id not in (leak.id, long.id)]
    page = folder / "run.html"
    page.write_text(
        run_page(replace(evidence, results=[*others, leak, long]), Source("e", "0" * 64))
    )
    return page


@pytest.fixture(scope="module")
def matrix(folder: Path) -> Path:
    from kvmtest.commands.lab_survey import load as load_survey

    rows = [of_survey(row) for row in load_survey(ROOT / "docs" / "kernels.json").values()]
    runs = [of_evidence(each.stem, load(each), f"r/{each.stem}.html") for each in RECORDED]
    page = folder / "matrix.html"
    page.write_text(matrix_page([*rows, *runs]))
    return page


@pytest.fixture(scope="module")
def fleets(folder: Path) -> list[Path]:
    """The pages of a small fleet and of a large one, with gaps, and names that do not break."""
    evidence = {each.stem: load(each) for each in RECORDED}

    def runs(hosts: int) -> Iterator[FleetRun]:
        for number in range(hosts):
            host = f"host{number}" if number else "h" * 64
            for at, kernel in enumerate(("own", "k" * 64, "6.12")):
                stem = list(evidence)[(number + at * (number % 7 == 0)) % len(evidence)]
                row = of_evidence(stem, evidence[stem], f"{host}/{kernel}/1/report.html")
                why = WhyNot(Gap.NO_BOOT, "uname -r is 6.1 after the reboot " + "x" * 200)
                is_gap = number % 11 == 4
                yield (
                    without(host, kernel, 1, why) if is_gap else with_evidence(host, kernel, 1, row)
                )

    pages = []
    for name, hosts in (("small", 12), ("large", 230)):
        (folder / name).mkdir()
        for page in fleet_pages(list(runs(hosts)), f"{name}.html", name):
            (folder / page.name).write_text(page.html)
            pages.append(folder / page.name)
    return pages


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return Browser(tmp_path)


def test_the_w3c_has_nothing_against_them(
    folder: Path, run: Path, matrix: Path, fleets: list[Path]
) -> None:
    pages = [run, matrix, *fleets]
    for path in RECORDED:
        page = folder / f"{path.stem}.html"
        assert main(["report", str(path), "--html", str(page)]) == 0
        pages.append(page)
    assert complaints(*pages) == []


def test_the_checker_finds_what_is_wrong(folder: Path) -> None:
    page = folder / "wrong.html"
    page.write_text("<!DOCTYPE html><html lang='en'><title>t</title><ul><p>x</p></ul></html>")
    assert complaints(page) != []


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, run: Path, matrix: Path, fleets: list[Path], width: int
) -> None:
    of_fleets = {page.stem: page for page in fleets}
    shown_pages = [of_fleets[name] for name in ("small", "large", "hosts", "kernel-0")]
    for page in (run, matrix, *shown_pages):
        script = (
            "document.querySelectorAll('details').forEach((each) => { each.open = true; });"
            "const root = document.documentElement;"
            "return [root.clientWidth, root.scrollWidth];"
        )
        shown, needed = browser.ask(page, script, width)
        assert shown >= width - 20  # A scroll bar takes some.
        assert needed <= shown, page.name


def test_no_text_lies_upon_another(browser: Browser, run: Path) -> None:
    script = """
        const boxes = [...document.querySelectorAll('.excess tbody tr')].map((row) =>
            [...row.children].map((cell) => {
                const range = document.createRange();
                range.selectNodeContents(cell);
                const box = range.getBoundingClientRect();
                return [box.left, box.right, box.top, box.bottom];
            }));
        return boxes;
    """
    for width in (NARROW, 700, WIDE):
        rows = browser.ask(run, script, width)
        assert rows
        for cells in rows:
            for at, (left, right, top, bottom) in enumerate(cells):
                for other in cells[at + 1 :]:
                    beside = right <= other[0] + 8 or other[1] <= left + 8
                    assert beside or bottom <= other[2] + 8 or other[3] <= top + 8, (width, cells)


def test_it_is_dark_where_the_reader_wants_that(browser: Browser, run: Path) -> None:
    script = (
        "const style = window.getComputedStyle(document.body);"
        "return [style.backgroundColor, style.color];"
    )
    light = browser.ask(run, script, WIDE, "--blink-settings=preferredColorScheme=1")
    dark = browser.ask(run, script, WIDE, "--blink-settings=preferredColorScheme=0")
    assert light == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert dark == ["rgb(20, 23, 27)", "rgb(228, 231, 235)"]


def test_filters_work_without_scripts(browser: Browser, matrix: Path) -> None:
    script = """
        const seen = (what) => [...document.querySelectorAll(what)]
            .filter((each) => each.getClientRects().length).length;
        const counts = () => [seen('tbody tr'), seen('tbody.good'), seen('thead .same')];
        const found = [counts()];
        for (const name of ['unfold', 'wrong-rows', 'differing']) {
            document.getElementById(name).click();
            found.push(counts());
        }
        return [document.querySelectorAll('tbody tr').length, found];
    """
    everything, (first, unfolded, wrong, differing) = browser.ask(matrix, script, WIDE)
    assert first[0] < everything / 3
    assert unfolded[0] == everything
    assert first[1] > 0
    assert wrong[1] == 0
    assert wrong[0] > 0
    assert differing[2] == 0


def test_filters_of_a_fleet_work_without_scripts(browser: Browser, fleets: list[Path]) -> None:
    script = """
        const seen = (what) => [...document.querySelectorAll(what)]
            .filter((each) => each.getClientRects().length).length;
        const counts = () => [seen('.hosts tbody'), seen('.hosts tbody.good'), seen('.member')];
        const found = [counts()];
        for (const name of ['wrong-rows', 'all-rows', 'unfold', 'machine-0']) {
            const input = document.getElementById(name);
            if (input) input.click();
            found.push(counts());
        }
        return found;
    """
    pages = {page.stem: page for page in fleets}
    first, wrong, everything, unfolded, machine = browser.ask(pages["small"], script, WIDE)
    assert first[1] > 0
    assert wrong[1] == 0 < wrong[0] < first[0]
    assert everything == first
    assert first[2] == 0 < unfolded[2]
    assert 0 < machine[0] < first[0]
    for name in ("large", "hosts"):
        first, wrong, *_ = browser.ask(pages[name], script, WIDE)
        assert wrong[1] == 0 < wrong[0] < first[0]


def test_the_browser_neither_fetches_nor_refuses_anything(
    browser: Browser, run: Path, matrix: Path, fleets: list[Path]
) -> None:
    assert [browser.console(page) for page in (run, matrix, fleets[0])] == [[], [], []]


def test_the_policy_holds_whatever_a_page_would_contain(browser: Browser, folder: Path) -> None:
    hostile = folder / "hostile.html"
    save(evidence_of([Result("any.soak", Verdict.PASS, "r")]), folder / "evidence.json")
    assert main(["report", str(folder), "--html", str(hostile)]) == 0
    injected = "<script>document.title = 'taken'</script><img src=http://192.0.2.1/x>"
    hostile.write_text(hostile.read_text().replace("</body>", f"{injected}</body>"))
    refused = browser.console(hostile)
    assert len(refused) == 2
    assert all("Content Security Policy" in line for line in refused)


def test_it_prints_on_a_few_pages(browser: Browser, run: Path) -> None:
    paper = browser.printed(run)
    assert paper.startswith(b"%PDF")
    assert 1 < paper.count(b"/Type /Page\n") < 12
