"""Writes docs/leak-judge.md: tries the leak experiment's judge on simulated machines.

``python tools/leak_judge_doc.py [TRIALS]``: 30000 trials a point, where none errs, bound its errors
below 1e-4 with 95 % confidence. They take about 17 minutes of CPU time, on two CPUs if there are.
"""

import os
import sys
from collections import Counter
from multiprocessing import Pool
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "docs" / "leak-judge.md"
sys.path.insert(0, str(PROJECT / "tests"))

from leak_grid import CHUNK, Point, points  # noqa: E402

from kvmtest.judge import Verdict  # noqa: E402

#: The part of the page that is not counted is kept: it ends with this line.
MARK = "<!-- made by tools/leak_judge_doc.py from here on -->"


def counts(verdicts: Counter[Verdict]) -> str:
    """Return how many PASS, FAIL and are INCONCLUSIVE."""
    order = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
    return " / ".join(str(verdicts[verdict]) for verdict in order)


def main() -> None:
    """Try every point, and write the table."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
    grid = list(points())
    chunks = [(point, number) for point in grid for number in range(trials // CHUNK)]
    totals: dict[Point, Counter[Verdict]] = {point: Counter() for point in grid}
    smis: dict[Point, list[int]] = {point: [] for point in grid}
    first: dict[Point, Counter[Verdict]] = {}
    with Pool(min(2, os.cpu_count() or 1)) as pool:
        done = pool.imap(_chunk, chunks, chunksize=20)
        for (point, number), (verdicts, seen) in zip(chunks, done, strict=True):
            totals[point] += verdicts
            smis[point] += seen
            if number == 0:
                first[point] = verdicts
    kept = TARGET.read_text().partition(MARK)[0]
    rows = [_row(point, totals[point], smis[point], first[point]) for point in grid]
    TARGET.write_text("\n".join([kept + MARK, "", *_head(totals), *rows, ""]))


def _chunk(work: tuple[Point, int]) -> tuple[Counter[Verdict], list[int]]:
    point, number = work
    return point.chunk(number)


def _head(totals: dict[Point, Counter[Verdict]]) -> list[str]:
    clean = [point for point in totals if point.truth == "no leak"]
    dirty = [point for point in totals if point.truth != "no leak"]
    fails = sum(totals[point][Verdict.FAIL] for point in clean)
    passes = sum(totals[point][Verdict.PASS] for point in dirty)
    worst = max(totals[point][point.error] / totals[point].total() for point in totals)
    return [
        f"In all {sum(totals[p].total() for p in clean)} trials without a leak {fails} FAIL, of "
        f"{sum(totals[p].total() for p in dirty)} with one {passes} PASS; the most at one point "
        f"is {worst:.1e} of its trials.",
        "",
        "| machine | truth | trials | false PASS | false FAIL | right | INCONCLUSIVE "
        f"| median SMIs | first {CHUNK}: PASS / FAIL / INCONCLUSIVE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]


def _row(point: Point, verdicts: Counter[Verdict], smis: list[int], first: Counter[Verdict]) -> str:
    trials = verdicts.total()
    false = verdicts[point.error]
    undecided = verdicts[Verdict.INCONCLUSIVE]
    is_pass = point.error is Verdict.PASS
    cells = [
        point.name, point.truth, trials, false if is_pass else "", "" if is_pass else false,
        f"{(trials - false - undecided) / trials:.1%}", f"{undecided / trials:.1%}",
        f"{median(smis):.0f}", counts(first),
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
