"""The judge on the grid of docs/leak-judge.md: a small part of it, judged again."""

import re
from pathlib import Path

import pytest
from scipy.special import gammaincinv
from support.leak_grid import CHUNK, Point, points

from kvmtest.judge import Verdict

PROJECT = Path(__file__).resolve().parents[3]
#: Shown with this confidence, by Poisson's law.
RATE, CONFIDENCE = 1e-4, 0.95

GRID = list(points())


def rows() -> dict[tuple[str, str], list[str]]:
    page = (PROJECT / "docs" / "leak-judge.md").read_text()
    made = page.partition("<!-- made by")[2]
    table = re.findall(r"^\| (.*) \|$", made, re.MULTILINE)[1:]
    cells = [[cell.strip() for cell in row.split("|")] for row in table]
    return {(row[0], row[1]): row for row in cells}


def test_the_page_has_the_whole_grid_and_shows_that_errors_are_rare() -> None:
    table = rows()
    assert list(table) == [(point.name, point.truth) for point in GRID]
    for point, row in zip(GRID, table.values(), strict=True):
        trials, errors = int(row[2]), int(row[3 if point.error is Verdict.PASS else 4])
        assert gammaincinv(errors + 1, CONFIDENCE) / trials < RATE


@pytest.mark.parametrize("point", GRID, ids=lambda point: f"{point.name}, {point.truth}")
def test_the_page_is_of_this_code(point: Point) -> None:
    verdicts, _ = point.chunk(0)
    order = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
    counts = " / ".join(str(verdicts[verdict]) for verdict in order)
    assert sum(verdicts.values()) == CHUNK
    assert rows()[point.name, point.truth][-1] == counts
