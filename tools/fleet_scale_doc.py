"""Writes docs/fleet-scale.md from docs/fleet-scale.json and the chances of the simulated fleet.

``make fleet-bench ARGS=--write`` makes fleet-scale.json.
"""

import json
import sys
from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TARGET, DATA = (PROJECT / "docs" / f"fleet-scale.{suffix}" for suffix in ("md", "json"))
sys.path.insert(0, str(PROJECT / "tests"))

from support.fleet_simulation import (  # noqa: E402
    BOOT,
    INSTALL,
    PACE,
    RESTORE,
    RUN,
    STAYS_LOST,
    UNFIT,
    Chances,
)

_INTRODUCTION = """\
# A fleet of a thousand hosts

Made by `python tools/fleet_scale_doc.py` from fleet-scale.json, which
`make fleet-bench ARGS=--write` measures.

Nobody has tried a thousand hosts: this is a simulation. What is done next on a host, and what
follows from how that ended, is kvmtest's own code; what a step takes and how it ends is drawn by
chance, of a fixed seed. Evidence is made from recorded runs; reading it, checking it against the
schema and making the pages is kvmtest's own work again, and is measured.

## The hosts

{hosts:,} hosts have {kernels} kernels each, with one run of each, and the plan's usual retry and
deadlines: 15 minutes for a boot, and for a run. Times are log-normal: half are below the median,
and two thirds within the spread around it.
"""

_CHANCES_HEAD = """\
| step | median | two thirds within | fails | hangs | host lost |
|---|---|---|---|---|---|"""

_HOSTS = """
All steps of one host are slower or faster by one factor more, of {pace}. A lost host answers no
more, which shows at the deadline; a restoration, with a power cycle, brings {back:.0%} of them
back. {unfit:.1%} of the pairs of host and kernel do not fit each other.

## The schedule

A lane keeps its place among those at work until its host is put back, so the number of places
decides how long all takes. `kvmtest fleet run` has {usual} unless `--jobs` says otherwise.

| hosts at work at once | all through after | places in use |
|---|---|---|"""

_OUTCOME = """
With a place for each host the slowest one decides, and the other places are empty most of the time.
What becomes of a host does not depend on the number of places:

| what | count |
|---|---|"""

_MEMORY = """
## Memory and disk

| what | size |
|---|---|
| the process of `kvmtest fleet run`, with the plan and all courses | {peak_mib} MiB |
| {at_once} lanes at work, a process each, what they have in common counted once | {lanes_mib} MiB |
| evidence of {done:,} runs | {evidence_mib} MiB |
| ledgers of {hosts:,} hosts | {ledgers_mib} MiB |

A lane at work over SSH has a process of ssh(1) besides. Recorded runs keep a few readings of each
kind: a run in the lab's Intel machine has 0.6 MB of evidence, and {done:,} of them have 6 GB.

## The matrix

Made from all evidence and ledgers, on {cpus} CPUs. The load average was {load:.1f} as it began, and
its niceness {niceness}: the time by the clock is beside that much other work.

| what | figure | goal |
|---|---|---|
| time by the clock | {seconds:.0f} s | 60 s |
| CPU time | {cpu_seconds:.0f} s | |
| memory of all processes, at most | {mib} MiB | 500 MiB |
| pages of the matrix | {pages} with {html_mib} MiB | 50 MiB |
| the largest of them | {largest_mib} MiB | 2 MiB |
| pages of runs, up to 400, first those of what is not good | {reports} with {reports_mib} MiB | |
| matrix.json | {json_mib} MiB | |
| junit.xml | {junit_mib} MiB | |

The row of a run with all its readings, 0.6 MB, takes {full_run_ms:.0f} ms of CPU time:
{full_s:.0f} s for {done:,} of them, which the CPUs share."""

_KCIDB = """
Where kcidb-io is installed, each end of a fleet also leaves kcidb.json, of {json_mib} MiB. It is
checked against KernelCI's schema run by run, which takes most of its time: {cpu_seconds:.0f} s of
CPU time, {seconds:.0f} s by the clock at a load of {load:.1f}, and at most {mib} MiB of memory."""


def document() -> str:
    """Return the page."""
    return "\n".join(_lines(json.loads(DATA.read_text()))) + "\n"


def _lines(data: dict[str, Any]) -> Iterator[str]:
    yield _INTRODUCTION.format(**data, kernels=data["runs"] // data["hosts"])
    yield _CHANCES_HEAD
    yield from (_row(each) for each in (INSTALL, BOOT, RUN, RESTORE))
    usual = data["memory"]["at_once"]
    pace = _spread(1, PACE, ".2f")
    yield _HOSTS.format(pace=pace, back=1 - STAYS_LOST, unfit=UNFIT, usual=usual)
    for at_once, makespan, utilisation in data["schedules"]:
        yield f"| {at_once} | {makespan / 3600:.1f} hours | {utilisation:.0%} |"
    yield _OUTCOME
    counts = {"planned runs": data["runs"], "with evidence": data["done"], **data["gaps"]}
    counts |= {"hosts that stay lost": data["lost_hosts"]}
    counts |= {words: data["steps"][name] for name, words in _STEPS.items()}
    yield from (f"| {what} | {count:,} |" for what, count in counts.items())
    full_s = data["full_run_ms"] * data["done"] / 1000
    yield _MEMORY.format(**data, **data["memory"], **data["matrix"], full_s=full_s)
    yield _KCIDB.format(**data["kcidb"])


_STEPS = {"Boot": "boots", "Run": "attempts at a run", "Restore": "restorations"}


def _row(of: Chances) -> str:
    times = f"{of.median_s:.0f} s | {_spread(of.median_s, of.spread, '.0f')} s"
    return f"| {of.what} | {times} | {of.fails:.1%} | {of.hangs:.1%} | {of.lost:.1%} |"


def _spread(median: float, spread: float, form: str) -> str:
    return f"{median * exp(-spread):{form}} to {median * exp(spread):{form}}"


if __name__ == "__main__":
    TARGET.write_text(document())
