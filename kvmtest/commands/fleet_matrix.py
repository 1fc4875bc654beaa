"""kvmtest fleet matrix
====================

Writes what is made of a fleet's results: the matrix page with its pages, matrix.json and junit.xml.
Made again at any time, from the evidence and the ledgers alone.
"""

from kvmtest.evidence.file import write_whole
from kvmtest.fleet.gaps import Gap, WhyNot, gaps
from kvmtest.fleet.results import Results
from kvmtest.report.fleet_junit import fleet_junit
from kvmtest.report.fleet_run import FleetRun, with_evidence, without
from kvmtest.report.html.fleet_page import fleet_pages
from kvmtest.report.matrix_json import matrix_json

from .matrix_rows import NamedRun, folder_beside, rows_of

__all__ = ["PAGE", "fleet_runs", "write_matrix"]

PAGE = "matrix.html"

_GONE = WhyNot(Gap.NO_RESULT, "its evidence was kept, and is gone")


def write_matrix(results: Results) -> list[FleetRun]:
    """Write the matrix of a fleet's results; return its runs. Raises EnvironmentUnfit."""
    runs = fleet_runs(results)
    folder = results.folder
    pages = folder_beside(folder / PAGE)
    names = set()
    for page in fleet_pages(runs, PAGE, pages.name):
        write_whole(folder / page.name, page.html)
        names.add(folder / page.name)
    # What a larger matrix had left would be of other runs.
    for old in {*pages.glob("*.html"), *folder.glob("matrix-*.html")} - names:
        old.unlink()
    write_whole(folder / "matrix.json", matrix_json(runs))
    write_whole(folder / "junit.xml", fleet_junit(runs))
    return runs


def fleet_runs(results: Results) -> list[FleetRun]:
    """Return the runs of a fleet in its plan's order, and write the pages of those that get one.

    Where evidence stands it counts, whatever the ledgers say. Raises EnvironmentUnfit.
    """
    files = {
        (lane.host.name, *task.key): results.evidence(lane, task.key)
        for lane, task in results.tasks
    }
    kept = {key: path for key, path in files.items() if path.is_file()}
    named = [
        NamedRun("/".join(map(str, key)), path, path.with_name("report.html"))
        for key, path in kept.items()
    ]
    rows = dict(zip(kept, rows_of(named, results.folder / PAGE), strict=True))
    missing = {
        (lane.host.name, *key): why
        for lane in results.lanes
        for key, why in gaps(results.course(lane)).items()
    }
    return [
        with_evidence(*key, rows[key]) if key in rows else without(*key, missing.get(key, _GONE))
        for key in files
    ]
