"""Writes docs/leak-judge.md: tries the leak experiment's judge on simulated machines.

``python tools/leak_judge_doc.py [MACHINE...]``: all machines of the grid, or those named and the
others' rows as they are. All take about 35 minutes of CPU time, on two CPUs if there are.
"""

import os
import sys
from collections import Counter
from multiprocessing import Pool
from multiprocessing.pool import Pool as Workers
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "docs" / "leak-judge.md"
sys.path.insert(0, str(PROJECT / "tests"))

from support.leak_grid import CHUNK, Point, points  # noqa: E402

from kvmtest.judge import Verdict  # noqa: E402

#: Trials at a point, and the factor for more trials if one errs.
TRIALS, MORE = 30_000, 5
#: The page's written part, which is kept, ends with this line.
MARK = "<!-- made by tools/leak_judge_doc.py from here on -->"


def counts(verdicts: Counter[Verdict]) -> str:
    """Return how many PASS, FAIL and are INCONCLUSIVE."""
    order = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
    return " / ".join(str(verdicts[verdict]) for verdict in order)


def main() -> None:
    """Try the points, and write the table."""
    kept, _, made = TARGET.read_text().partition(MARK)
    rows = {tuple(row[:2]): row for row in table(made)}
    grid = list(points())
    chosen = [point for point in grid if point.name in sys.argv[1:] or not sys.argv[1:]]
    with Pool(min(2, os.cpu_count() or 1)) as pool:
        for point, outcome in tried(pool, chosen).items():
            rows[point.name, point.truth] = outcome.row(point)
    ordered = [rows[point.name, point.truth] for point in grid]
    lines = ["| " + " | ".join(row) + " |" for row in ordered]
    TARGET.write_text("\n".join([kept + MARK, "", *head(ordered), *lines, ""]))


def table(page: str) -> list[list[str]]:
    """Return the cells of the table's rows."""
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


class Outcome:
    """The outcome at one point."""

    def __init__(self) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.smis: list[int] = []
        self.first: Counter[Verdict] = Counter()

    def row(self, point: Point) -> list[str]:
        """Return the cells of the point's row."""
        trials, false = self.verdicts.total(), self.verdicts[point.error]
        undecided = self.verdicts[Verdict.INCONCLUSIVE]
        errors = [str(false), ""] if point.error is Verdict.PASS else ["", str(false)]
        return [
            point.name, point.truth, str(trials), *errors,
            f"{(trials - false - undecided) / trials:.1%}", f"{undecided / trials:.1%}",
            f"{median(self.smis):.0f}", counts(self.first),
        ]  # fmt: skip


def tried(pool: Workers, chosen: list[Point]) -> dict[Point, Outcome]:
    """Return the points' outcomes; a point with an error gets more trials."""
    outcomes = {point: Outcome() for point in chosen}
    begun = 0
    for trials in (TRIALS, MORE * TRIALS):
        numbers = range(begun // CHUNK, trials // CHUNK)
        work = [
            (p, n) for p, o in outcomes.items() if not begun or o.verdicts[p.error] for n in numbers
        ]
        for (point, number), (verdicts, smis) in zip(
            work, pool.imap(_chunk, work, chunksize=20), strict=True
        ):
            outcome = outcomes[point]
            outcome.verdicts += verdicts
            outcome.smis += smis
            if number == 0:
                outcome.first = verdicts
        begun = trials
    return outcomes


def _chunk(work: tuple[Point, int]) -> tuple[Counter[Verdict], list[int]]:
    point, number = work
    return point.chunk(number)


def head(rows: list[list[str]]) -> list[str]:
    """Return the text above the table's rows: the sums, and the table's head."""
    passes = [(int(row[2]), int(row[3])) for row in rows if row[3]]
    fails = [(int(row[2]), int(row[4])) for row in rows if row[4]]
    worst = max(errors / trials for trials, errors in passes + fails)
    return [
        f"In all {sum(trials for trials, _ in fails)} trials without a leak "
        f"{sum(errors for _, errors in fails)} FAIL, of {sum(trials for trials, _ in passes)} with "
        f"one {sum(errors for _, errors in passes)} PASS; the most at one point is {worst:.1e} of "
        "its trials.",
        "",
        "| machine | truth | trials | false PASS | false FAIL | right | INCONCLUSIVE "
        f"| median SMIs | first {CHUNK}: PASS / FAIL / INCONCLUSIVE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]


if __name__ == "__main__":
    main()
