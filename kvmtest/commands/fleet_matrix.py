"""kvmtest fleet matrix
====================

Writes what is made of a fleet's results: the matrix page with its pages, matrix.json and junit.xml.
Made again at any time, from the evidence and the courses of lanes alone.
"""

from collections.abc import Sequence
from pathlib import Path

from kvmtest.evidence.file import EVIDENCE, write_whole
from kvmtest.fleet.course import Course
from kvmtest.fleet.gaps import Gap, WhyNot, gaps
from kvmtest.fleet.tasks import Lane
from kvmtest.report.fleet_junit import fleet_junit
from kvmtest.report.fleet_run import FleetRun, with_evidence, without
from kvmtest.report.html.fleet_page import fleet_pages
from kvmtest.report.matrix_json import matrix_json

from .matrix_rows import NamedRun, folder_beside, rows_of

__all__ = ["PAGE", "fleet_runs", "write_matrix"]

PAGE = "matrix.html"

_GONE = WhyNot(Gap.NO_RESULT, "its evidence was kept, and is gone")


def write_matrix(folder: Path, courses: Sequence[tuple[Lane, Course]]) -> list[FleetRun]:
    """Write the matrix of the results in ``folder``; return its runs. Raises EnvironmentUnfit.

    ``courses`` are the plan's lanes, each with where it stands.
    """
    runs = fleet_runs(folder, courses)
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


def fleet_runs(folder: Path, courses: Sequence[tuple[Lane, Course]]) -> list[FleetRun]:
    """Return the runs of a plan in its order, and write the pages of those that get one.

    Where evidence stands it counts, whatever the course says. Raises EnvironmentUnfit.
    """
    places = {
        (lane.host.name, *task.key): folder / lane.host.name / task.kernel / str(task.number)
        for lane, _ in courses
        for task in lane.tasks
    }
    kept = {key: place for key, place in places.items() if (place / EVIDENCE).is_file()}
    named = [
        NamedRun("/".join(map(str, key)), place / EVIDENCE, place / "report.html")
        for key, place in kept.items()
    ]
    rows = dict(zip(kept, rows_of(named, folder / PAGE), strict=True))
    missing = {
        (lane.host.name, *key): why for lane, course in courses for key, why in gaps(course).items()
    }
    return [
        with_evidence(*key, rows[key]) if key in rows else without(*key, missing.get(key, _GONE))
        for key in places
    ]
