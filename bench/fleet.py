"""A large fleet
=============

A simulated fleet of 1,000 hosts with ten kernels (tests/support/fleet_simulation.py): how long its
lanes take by how many are at work at once, what memory that needs, how large its results are, and
how long their matrix takes. Prints each figure that has a goal beside it, and exits with 1 if one
is missed. With --write the figures become docs/fleet-scale.json.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from support.fleet_results import RECORDED, write
from support.fleet_simulation import Story, schedule, story
from support.fleets import plan_text

from kvmtest import parallel
from kvmtest.commands.apart import MEMORY_MIB, Silent
from kvmtest.evidence.file import EVIDENCE, load_verdicts
from kvmtest.fleet.course import Course
from kvmtest.fleet.gaps import gaps
from kvmtest.fleet.plan import parse
from kvmtest.fleet.results import Results
from kvmtest.fleet.run import HOSTS_AT_ONCE
from kvmtest.fleet.tasks import lanes
from kvmtest.report.matrix_run import of_evidence

DATA = Path(__file__).resolve().parents[1] / "docs" / "fleet-scale.json"
HOSTS, KERNELS = 1000, 10
AT_ONCE = (16, HOSTS_AT_ONCE, 256, 1000)
SEED = 1

#: The most that the matrix of 10,000 runs may take: seconds, MiB, and MiB of HTML in all and of
#: one page.
SECONDS, MEMORY, HTML, PAGE = 60, 500, 50, 2
MIB = 1 << 20


def simulated(hosts: int, kernels: int) -> tuple[str, list[Story]]:
    """Return a plan and what becomes of its lanes."""
    text = plan_text(
        [f"host{number:04}" for number in range(hosts)], [f"k{n}" for n in range(kernels)]
    )
    return text, [story(lane, SEED) for lane in lanes(parse(text, Path("plan.yaml")))]


def of_schedule(stories: list[Story]) -> dict[str, Any]:
    """Return the figures that follow from the seed alone."""
    gone = Counter(why.gap.value for each in stories for why in gaps(each.course).values())
    steps = sum((each.steps for each in stories), Counter[str]())
    return {
        "hosts": len(stories),
        "runs": sum(len(each.course.tasks) for each in stories),
        "done": sum(len(each.course.done) for each in stories),
        "gaps": dict(sorted(gone.items())),
        "lost_hosts": sum(bool(each.course.lost) for each in stories),
        "steps": dict(sorted(steps.items())),
        "schedules": [
            [each.at_once, round(each.makespan), round(each.utilisation, 3)]
            for each in (schedule(stories, at_once) for at_once in AT_ONCE)
        ],
    }


def of_lanes(at_once: int) -> dict[str, Any]:
    """Return the memory of a fleet at work: this process, and one for each lane."""
    _, stories = simulated(HOSTS, KERNELS)
    barrier = get_context("fork").Barrier(at_once)

    def at_work(number: int) -> float:
        Course(stories[number].course.tasks)
        barrier.wait(60)
        return _proportional_mib()

    tasks = [
        parallel.Task(str(number), lambda _, number=number: at_work(number))
        for number in range(at_once)
    ]
    ended = parallel.run(tasks, at_once, Silent())
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lanes_mib = sum(each.result or 0.0 for each in ended)
    return {"at_once": at_once, "peak_mib": round(own), "lanes_mib": round(lanes_mib)}


def _proportional_mib() -> float:
    """Return this process's memory, with its share of what it has in common with others."""
    found = re.search(r"^Pss:\s*(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.M)
    assert found
    return int(found[1]) / 1024


def of_matrix(folder: Path) -> dict[str, Any]:
    """Make the matrix of results; return what it takes, and how large it is."""
    took = used_by(
        "from kvmtest.commands.fleet_matrix import write_matrix\n"
        "from kvmtest.fleet.results import Results\n"
        "write_matrix(Results.open(folder))",
        folder,
    )
    pages = [*folder.glob("*.html"), *folder.glob("matrix-runs/*.html")]
    reports = list(folder.glob("*/*/*/report.html"))
    sizes = [page.stat().st_size for page in pages]
    return {
        **took,
        "pages": len(pages),
        "html_mib": round(sum(sizes) / MIB, 1),
        "largest_mib": round(max(sizes) / MIB, 2),
        "reports": len(reports),
        "reports_mib": round(sum(each.stat().st_size for each in reports) / MIB, 1),
        "json_mib": round((folder / "matrix.json").stat().st_size / MIB, 2),
        "junit_mib": round((folder / "junit.xml").stat().st_size / MIB, 2),
    }


def of_kcidb(folder: Path) -> dict[str, Any]:
    """Make the KCIDB document of results; return what it takes, and how large it is."""
    code = "from kvmtest.commands.fleet_kcidb import write_kcidb\nwrite_kcidb(folder)"
    took = used_by(code, folder)
    return {**took, "json_mib": round((folder / "kcidb.json").stat().st_size / MIB)}


def used_by(code: str, folder: Path) -> dict[str, Any]:
    """Run code on a folder in a process of its own; return what that takes, and beside what.

    The memory is that of the largest process, times their number at once: more than it can be. The
    load is the average of the minute before. The niceness is that of the processes' autogroup, by
    which Linux lets the processes of other sessions go first.
    """
    load, group = os.getloadavg()[0], Path("/proc/self/autogroup")
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if group.exists():
        nice = int(group.read_text().split()[-1])
    began = time.monotonic()
    head = "import sys\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n"
    child = subprocess.Popen([sys.executable, "-c", head + code, str(folder)])
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    if status:
        raise SystemExit(
            f"fleet-bench: it failed with {os.waitstatus_to_exitcode(status)}:\n{code}"
        )
    return {
        "load": round(load, 1),
        "niceness": nice,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "mib": round((1 + parallel.jobs_that_fit(MEMORY_MIB)) * used.ru_maxrss / 1024),
    }


def full_run_ms() -> float:
    """Return the CPU time, in ms, for the row of a run that kept all its readings.

    The recorded runs keep a few of each; a run in the lab's Intel machine has 2,300, in 0.6 MB.
    """
    data = json.loads((RECORDED / "intel-lab-nested.json").read_text())
    for result in data["results"]:
        result["readings"] *= 5
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, EVIDENCE)
        path.write_text(json.dumps(data))
        turns = []
        for _ in range(10):
            began = time.process_time()
            of_evidence("", load_verdicts(path), "")
            turns.append(time.process_time() - began)
    return round(min(turns) * 1000, 1)


def reaches(name: str, figure: float, goal: float, unit: str) -> bool:
    """Print a figure beside its goal; tell whether it reaches it."""
    reached = figure <= goal
    print(
        f"{'ok    ' if reached else 'MISSED'} {name}: {figure:g} {unit} (goal <= {goal:g} {unit})"
    )
    return reached


def table(figures: dict[str, Any]) -> str:
    """Return the schedules, a line each."""
    lines = ["at once   all through   places in use"]
    for at_once, makespan, utilisation in figures["schedules"]:
        lines.append(f"{at_once:7} {makespan / 3600:11.1f} h {utilisation:14.1%}")
    gone = ", ".join(f"{count} {gap}" for gap, count in figures["gaps"].items())
    return "\n".join([*lines, f"{figures['done']} of {figures['runs']} runs have evidence; {gone}"])


def main() -> int:
    """Measure all, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {DATA.name}")
    parser.add_argument("--lanes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lanes:
        print(json.dumps(of_lanes(options.lanes)))
        return 0
    text, stories = simulated(HOSTS, KERNELS)
    figures = {"cpus": len(os.sched_getaffinity(0)), **of_schedule(stories)}
    print(table(figures), flush=True)
    words = [sys.executable, __file__, "--lanes", str(HOSTS_AT_ONCE)]
    figures["memory"] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    with tempfile.TemporaryDirectory(prefix="kvmtest-fleet-") as place:
        folder = Path(place)
        Results.create(folder, parse(text, Path("plan.yaml")))
        evidence, ledgers = write(folder, stories, SEED)
        figures |= {"evidence_mib": round(evidence / MIB), "ledgers_mib": round(ledgers / MIB, 1)}
        figures["matrix"] = matrix = of_matrix(folder)
        figures["kcidb"] = kcidb = of_kcidb(folder)
    print(f"       {figures['evidence_mib']} MiB of evidence, {figures['ledgers_mib']} of ledgers")
    figures["full_run_ms"] = full_run_ms()
    for name, took in (("the matrix", matrix), ("kcidb.json", kcidb)):
        took_s = f"{took['cpu_seconds']} s of CPU time, {took['seconds']} by the clock"
        print(f"       {name} took {took_s}, at load {took['load']}, niceness {took['niceness']}")
    reached = [
        reaches("the matrix, by the clock", matrix["seconds"], SECONDS, "s"),
        reaches("its memory", matrix["mib"], MEMORY, "MiB"),
        reaches("its pages in all", matrix["html_mib"], HTML, "MiB"),
        reaches("its largest page", matrix["largest_mib"], PAGE, "MiB"),
    ]
    if options.write:
        DATA.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
