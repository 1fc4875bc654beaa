"""How long the lab takes
======================

Times the lab's Intel machine: a later run of a kernel, one with other modules of KVM laid over, the
first run of all, with an empty cache, and a kernel's first run once everything is fetched and the
emulator is built. With --against CHECKOUT another checkout's kvmtest takes turns with this one,
both with the properties that both decide, and ratios are printed: compare these, as times vary with
machine and day.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
ROUNDS = 3
# The last line of `kvmtest lab run`.
_TIMES = re.compile(r"lab: ([\d.]+) s in all \((.*)\)")
_STEP = re.compile(r"([a-z ]+) ([\d.]+)")
_KERNEL = re.compile(r"(?:^kernel +|\bLinux )(\d\S+)", re.M)
# A line may have several properties.
_DECIDED = re.compile(r"^(?:PASS|FAIL|KNOWN|INCONCLUSIVE) .*", re.M)
_PROPERTY = re.compile(r"\b[a-z]+\.[a-z][a-z0-9.-]+")
# What a kernel's first run finds once another kernel has run and this one is fetched.
_FETCHED_AND_BUILT = ("archive", "kernel", "bochs-source", "emulator", "selftest")


@dataclass(frozen=True)
class Measure:
    """What is timed: its name, the seconds and the ratio that it is to take at most."""

    name: str
    goal_s: float
    goal_ratio: float


SUITE = Measure("suite of a later run", 12, 0.5)
MUTANT = Measure("later run with other modules, whole", 20, 0.5)
FIRST = Measure("first run, of an empty cache", 120, 1.0)
FIRST_FETCHED = Measure("first run, all fetched and built", 120, 0.6)

Times = dict[Measure, list[float]]
AllTimes = dict[Path, Times]


class RunFailed(Exception):
    """A run that was to be timed did not end well; the message is its last line."""


@dataclass(frozen=True)
class Run:
    """A run of the lab: the kernel's release, the properties that it decided, and its seconds."""

    release: str
    decided: Sequence[str]
    seconds: float
    steps: Mapping[str, float]


def run(checkout: Path, words: Sequence[str] = (), more: Mapping[str, str] | None = None) -> Run:
    """Time `kvmtest lab run`, whatever its verdicts; raises RunFailed where it decides nothing."""
    command = [checkout / ".venv/bin/kvmtest", "lab", "run", *words]
    environment = {**os.environ, **(more or {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    times, kernel = _TIMES.search(printed), _KERNEL.search(printed)
    if times is None or kernel is None:
        raise RunFailed(f"{checkout}: {(printed.strip().splitlines() or ['no output'])[-1]}")
    steps = {name.strip(): float(seconds) for name, seconds in _STEP.findall(times[2])}
    decided = _PROPERTY.findall("\n".join(_DECIDED.findall(printed)))
    return Run(kernel[1], decided, float(times[1]), steps)


def later(checkouts: Sequence[Path], cache: Path, suite: Sequence[str], release: str) -> AllTimes:
    """Time later runs, and some with modules that the kill matrix has built, if it has any."""
    seconds: AllTimes = {each: {SUITE: [], MUTANT: []} for each in checkouts}
    modules = built_modules(cache, release)
    for _ in range(ROUNDS):
        for checkout in checkouts:
            seconds[checkout][SUITE].append(run(checkout, suite).steps["suite"])
            if modules:
                laid = [*suite, "--modules", str(modules)]
                seconds[checkout][MUTANT].append(run(checkout, laid).seconds)
    return seconds


def same_suite(runs: Sequence[Run]) -> list[str]:
    """Return the options by which all checkouts decide the same properties."""
    if len(runs) == 1:
        return []
    common = set.intersection(*(set(each.decided) for each in runs))
    return [f"--only={name}" for name in runs[0].decided if name in common]


def first(checkout: Path, cache: Path, suite: Sequence[str]) -> Times:
    """Time first runs, in a cache of their own: an empty one, and one without machines."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        variable = {"KVMTEST_CACHE": folder}
        of_all = run(checkout, suite, variable).seconds
        for entry in Path(folder).iterdir():
            if entry.name not in _FETCHED_AND_BUILT:
                shutil.rmtree(entry)
        return {FIRST: [of_all], FIRST_FETCHED: [run(checkout, suite, variable).seconds]}


def built_modules(cache: Path, release: str) -> Path | None:
    """Return a folder of KVM's modules for a kernel that the kill matrix has built, or None."""
    wanted = f"vermagic={release} ".encode()
    built = (cache / "kvm-modules").glob("*/kvm-intel.ko")
    return next((module.parent for module in built if wanted in module.read_bytes()), None)


def table(seconds: Mapping[Path, Times], this: Path, other: Path | None) -> str:
    """Return the figures, one line a measure."""
    lines = []
    for measure in (SUITE, MUTANT, FIRST, FIRST_FETCHED):
        own = seconds[this].get(measure)
        if not own:
            continue
        words = [f"{measure.name:36} {median(own):6.1f} s (goal {measure.goal_s:.0f})"]
        if other and seconds[other].get(measure):
            ratio = median(own) / median(seconds[other][measure])
            before = median(seconds[other][measure])
            words.append(f"{before:6.1f} s there, ratio {ratio:.2f} (goal {measure.goal_ratio})")
        lines.append(" ".join(words))
    return "\n".join(lines)


def main() -> int:
    """Time the runs and print the figures; return 0, or 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout, installed in its .venv")
    options = parser.parse_args()
    checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
    cache = Path(os.environ.get("KVMTEST_CACHE") or Path.home() / ".cache" / "kvmtest")
    try:
        before = [run(each) for each in checkouts]
        suite = same_suite(before)
        seconds = later(checkouts, cache, suite, before[0].release)
        for checkout in checkouts:
            seconds[checkout] |= first(checkout, cache, suite)
    except RunFailed as failed:
        print(f"lab-bench: {failed}", file=sys.stderr)
        return 1
    print(table(seconds, HERE, checkouts[1] if options.against else None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
