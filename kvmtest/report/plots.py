"""Plots
=====

A picture of each result that has samples, as SVG and PNG. Drawing needs matplotlib, the
extra ``plots``, which is imported only then.
"""

import io

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import Evidence, Result
from kvmtest.judge import Role
from kvmtest.optional_libraries import library

__all__ = ["pictures"]

# No program name and no time: the same evidence gives the same bytes.
_METADATA = {"svg": {"Creator": None, "Date": None}, "png": {"Software": None}}
_SETTINGS = {
    "font.size": 9,
    "svg.hashsalt": "kvmtest",
    "axes.linewidth": 0.7,
    "hatch.linewidth": 0.5,
}


def pictures(evidence: Evidence) -> dict[str, bytes]:
    """Return the files ID.svg and ID.png of each result with windows, by name.

    Raises EnvironmentUnfit if matplotlib is missing or samples are broken.
    """
    results = [result for result in evidence.results if _has_windows(result)]
    return {n: data for result in results for n, data in _pictures(evidence, result).items()}


def _has_windows(result: Result) -> bool:
    return any(r.role is Role.SAMPLE and r.what.startswith("window ") for r in result.readings)


def _pictures(evidence: Evidence, result: Result) -> dict[str, bytes]:
    """Return the files of one result, by name."""
    matplotlib = library("matplotlib", "drawing plots", "plots")
    from .leak_figure import draw

    # The user's own settings are for the user's own plots.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        try:
            figure = draw(evidence, result)
        except (ArithmeticError, KeyError, ValueError) as error:
            raise EnvironmentUnfit(
                f"{result.id}: its samples can't be drawn ({error}); run it again"
            ) from None
        files = {}
        for form, metadata in _METADATA.items():
            data = io.BytesIO()
            figure.savefig(data, format=form, metadata=metadata, dpi=150)
            files[f"{result.id}.{form}"] = data.getvalue()
        return files
