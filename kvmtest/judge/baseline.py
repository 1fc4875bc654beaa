"""Baseline
========

A counter's gain without SMIs, fitted to quiet windows by least squares: a constant per window, a
trend over time, a cost per VM-exit, and an offset per vCPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from operator import mul

from .samples import Window

__all__ = ["Baseline", "Columns", "Covariates", "dot"]

Columns = list[list[float]]

# A covariate is redundant if the others explain all of its variance but this share.
_TOLERANCE = 1e-9


def dot(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the sum of products."""
    return float(sum(map(mul, ones, others)))


class Covariates:
    """What a window's count may depend on besides SMIs, as deviations from the quiet windows' mean.

    The covariates are time (a parabola over the experiment, a line if quiet windows are few),
    VM-exits and the vCPU. One that is constant or redundant among the quiet windows is left out.
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
        """Return the covariates that are kept, a column for each."""
        columns = self._columns(windows)
        means = self._means
        return [[value - means[at] for value in columns[at]] for at in self._kept]

    def explain(self, window: Window) -> bool:
        """Whether quiet windows cover the window's VM-exits and vCPU."""
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
    """A counter's gain in quiet windows: the fit, and the residuals' size.

    ``squares`` is the sum of the squared residuals, ``freedom`` its degrees of freedom.
    ``largest_residual`` is the largest to expect from as many windows outside the fit.
    """

    covariates: Covariates
    mean: float
    slopes: list[float]
    count: int
    squares: float
    freedom: int
    largest_residual: float

    @classmethod
    def fit(cls, covariates: Covariates, gains: Sequence[float]) -> "Baseline | None":
        """Fit the gains of the covariates' quiet windows; None if they are too few."""
        count, columns = len(gains), covariates.quiet
        freedom = count - 1 - len(columns)
        if freedom < 3:
            return None
        mean = sum(gains) / count
        centred = [gain - mean for gain in gains]
        products = [dot(column, centred) for column in columns]
        slopes = [dot(row, products) for row in covariates.inverse]
        residuals = _without(centred, slopes, columns)
        largest_residual = max(map(abs, residuals)) * sqrt(count / freedom)
        squares = dot(residuals, residuals)
        return cls(covariates, mean, slopes, count, squares, freedom, largest_residual)

    def residuals(self, gains: Sequence[float], columns: Columns) -> list[float]:
        """Return how far windows with these covariates gained above the baseline."""
        mean = self.mean
        return _without([gain - mean for gain in gains], self.slopes, columns)

    def leverage(self, columns: Columns, count: int) -> float:
        """Return the variance of the baseline's sum over ``count`` windows; one window's is 1."""
        sums = [sum(column) for column in columns]
        rows = self.covariates.inverse
        products = [total * dot(row, sums) for total, row in zip(sums, rows, strict=True)]
        return count * count / self.count + sum(products)


def _without(values: list[float], slopes: list[float], columns: Columns) -> list[float]:
    for slope, column in zip(slopes, columns, strict=True):
        values = [value - slope * x for value, x in zip(values, column, strict=True)]
    return values


def _inverse(matrix: Columns) -> tuple[list[int], Columns]:
    """Return the independent rows, and the inverse of the matrix of those.

    ``matrix`` holds sums of products: it is symmetric and positive semidefinite.
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
