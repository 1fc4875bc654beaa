"""Baseline
========

What a counter gains without SMIs, learnt from quiet windows by least squares: so much per window,
so much more or less as time goes by, per VM-exit, and on each vCPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from operator import mul

from .samples import Window

__all__ = ["Baseline", "Columns", "Covariates", "dot"]

Columns = list[list[float]]

# A covariate that others explain to this share of its variance tells nothing of its own.
_TOLERANCE = 1e-9


def dot(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the sum of products."""
    return float(sum(map(mul, ones, others)))


class Covariates:
    """What a window's count may depend on besides SMIs, as deviations from the quiet windows' mean.

    These are time (a parabola over the experiment, a line where quiet windows are few), VM-exits,
    and the vCPU. What does not vary among the quiet windows, or not by itself, is left out.
    """

    def __init__(self, quiet: list[Window]) -> None:
        self._degree = 2 if len(quiet) >= 8 else 1 if len(quiet) >= 5 else 0
        self._vcpus = sorted({window.vcpu for window in quiet})
        first, last = min(w.began for w in quiet), max(w.ended for w in quiet)
        self._middle, self._span = first + last, max(last - first, 1)
        columns = self._columns(quiet)
        self._means = [sum(column) / len(quiet) for column in columns]
        self._kept = list(range(len(columns)))
        columns = self.of(quiet)
        self._kept, self.inverse = _inverse([[dot(a, b) for b in columns] for a in columns])
        self.quiet = [columns[at] for at in self._kept]
        self._exits = None if self._degree in self._kept else self._means[self._degree]

    def of(self, windows: Sequence[Window]) -> Columns:
        """Return the covariates that tell something, a column for each."""
        columns = self._columns(windows)
        means = self._means
        return [[value - means[at] for value in columns[at]] for at in self._kept]

    def explain(self, window: Window) -> bool:
        """Whether the quiet windows say what its VM-exits cost, and what its vCPU counts."""
        is_like = self._exits is None or window.exits == self._exits
        return is_like and window.vcpu in self._vcpus

    def _columns(self, windows: Sequence[Window]) -> Columns:
        middle, span = self._middle, self._span
        times = [(w.began + w.ended - middle) / span for w in windows]
        columns: Columns = [times, [time * time for time in times]][: self._degree]
        columns.append([float(w.exits) for w in windows])
        columns += [[float(w.vcpu == vcpu) for w in windows] for vcpu in self._vcpus[1:]]
        return columns


@dataclass(frozen=True, slots=True)
class Baseline:
    """A counter's gain in quiet windows: the fit, and how far these are from it.

    ``squares`` is the sum of the squared distances, ``freedom`` its degrees of freedom, and
    ``farthest`` the greatest distance to expect of as many windows that the fit does not know.
    """

    covariates: Covariates
    mean: float
    slopes: list[float]
    count: int
    squares: float
    freedom: int
    farthest: float

    @classmethod
    def fit(cls, covariates: Covariates, gains: Sequence[float]) -> "Baseline | None":
        """Fit the gains of the covariates' quiet windows; None where these are too few."""
        count, columns = len(gains), covariates.quiet
        freedom = count - 1 - len(columns)
        if freedom < 3:
            return None
        mean = sum(gains) / count
        centred = [gain - mean for gain in gains]
        products = [dot(column, centred) for column in columns]
        slopes = [dot(row, products) for row in covariates.inverse]
        rests = _without(centred, slopes, columns)
        farthest = max(map(abs, rests)) * sqrt(count / freedom)
        squares = dot(rests, rests)
        return cls(covariates, mean, slopes, count, squares, freedom, farthest)

    def rests(self, gains: Sequence[float], columns: Columns) -> list[float]:
        """Return what windows with these covariates gained above the baseline."""
        mean = self.mean
        return _without([gain - mean for gain in gains], self.slopes, columns)

    def leverage(self, columns: Columns, count: int) -> float:
        """Return the variance of the baseline's sum over so many windows, in units of one's."""
        sums = [sum(column) for column in columns]
        rows = self.covariates.inverse
        products = [total * dot(row, sums) for total, row in zip(sums, rows, strict=True)]
        return count * count / self.count + sum(products)


def _without(values: list[float], slopes: list[float], columns: Columns) -> list[float]:
    for slope, column in zip(slopes, columns, strict=True):
        values = [value - slope * x for value, x in zip(values, column, strict=True)]
    return values


def _inverse(matrix: Columns) -> tuple[list[int], Columns]:
    """Return which rows are independent, and the inverse of the matrix of these.

    ``matrix`` holds sums of products: it is symmetric, and no eigenvalue is negative.
    """
    size = len(matrix)
    least = [_TOLERANCE * matrix[at][at] for at in range(size)]
    swept = [list(row) for row in matrix]
    kept: list[int] = []
    for at in range(size):
        pivot = swept[at][at]
        if pivot <= least[at]:
            continue
        kept.append(at)
        row = [value / pivot for value in swept[at]]
        row[at] = 1 / pivot
        for other in range(size):
            if other == at:
                continue
            factor = swept[other][at]
            changed = [value - factor * by for value, by in zip(swept[other], row, strict=True)]
            changed[at] = -factor / pivot
            swept[other] = changed
        swept[at] = row
    return kept, [[swept[a][b] for b in kept] for a in kept]
