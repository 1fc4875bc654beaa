"""The judge on the grid of docs/leak-judge.md: a small part of it, judged again."""

import re
from pathlib import Path

import pytest
from leak_grid import CHUNK, Point, points

from kvmtest.judge import Verdict

PROJECT = Path(__file__).resolve().parents[3]
#: Trials at one point without an error that show it to be below 1e-4, with 95 % confidence.
ENOUGH = 29_956

GRID = list(points())


def rows() -> dict[tuple[str, str], list[str]]:
    page = (PROJECT / "docs" / "leak-judge.md").read_text()
    table = re.findall(r"^\| (.*) \|$", page, re.MULTILINE)[1:]
    cells = [[cell.strip() for cell in row.split("|")] for row in table]
    return {(row[0], row[1]): row for row in cells}


def test_the_page_has_the_whole_grid_and_no_error_in_it() -> None:
    table = rows()
    assert list(table) == [(point.name, point.truth) for point in GRID]
    for row in table.values():
        assert int(row[2]) >= ENOUGH
        assert sorted(row[3:5]) == ["", "0"]


@pytest.mark.parametrize("point", GRID, ids=lambda point: f"{point.name}, {point.truth}")
def test_the_page_is_of_this_code(point: Point) -> None:
    verdicts, _ = point.chunk(0)
    order = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
    counts = " / ".join(str(verdicts[verdict]) for verdict in order)
    assert sum(verdicts.values()) == CHUNK
    assert not verdicts[point.error]
    assert rows()[point.name, point.truth][-1] == counts
