"""KCIDB
=====

Runs as a document for KernelCI's common database, in version 5.3 of its schema (kcidb-io), which
checks it. A kernel is a checkout with one build, and a property that was run is a test of this
build. A known defect is an issue, with an incident at each test that it shows at or should have.

KCIDB has no word for INCONCLUSIVE: its ERROR and MISS say that the test broke. It is DONE, and so
is MEASURED, which has a number; ``misc.verdict`` of each test has kvmtest's own word.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from kvmtest.errors import UsageError, printable
from kvmtest.evidence import Evidence, Result
from kvmtest.evidence.counting import UNDECIDED, run_problem
from kvmtest.evidence.statements import words
from kvmtest.findings import command, findings
from kvmtest.judge import Reading, Role, Verdict
from kvmtest.optional_libraries import library

from .heading import cpu_name, facts, machine_words, model_name
from .telling import RUN, telling

__all__ = ["ORIGIN", "Part", "joined", "kcidb", "part"]

#: The CI system that a document is said to come from, unless its user names another.
ORIGIN = "kvmtest"

_VERSION = {"major": 5, "minor": 3}
_ORIGIN = re.compile(r"[a-z0-9_]+")
_ID = re.compile(r"[a-z0-9_]+:[^\0\n]+")
#: Status by verdict. A reader orders them FAIL, ERROR, MISS, PASS, DONE, SKIP.
_STATUS = {
    Verdict.PASS: "PASS",
    Verdict.FAIL: "FAIL",
    Verdict.ERROR: "ERROR",
    Verdict.SKIP: "SKIP",
    Verdict.INCONCLUSIVE: "DONE",
    Verdict.MEASURED: "DONE",
}
#: The most characters of a comment, and of an excerpt; the schema sets the second.
_COMMENT, _EXCERPT = 1000, 16384
#: The version of an issue, which rises when what is said of the defect changes.
_ISSUE_VERSION = 1
#: The kinds of objects that a document has besides tests.
_KINDS = ("checkouts", "builds", "issues", "incidents")

Json = dict[str, Any]


class Part(NamedTuple):
    """One run of a document: its tests, each as JSON, and what they refer to by kind and id."""

    run: str
    tests: Sequence[str]
    rest: Mapping[str, Mapping[str, Json]]


def kcidb(
    runs: Iterable[tuple[str, Evidence]], origin: str = ORIGIN, build: str = ""
) -> Iterator[str]:
    """Give the pieces of one KCIDB document, JSON text. A run that comes twice is in it once.

    ``runs`` are pairs of a name, which may be "", and evidence. ``origin`` is the CI system that
    submits the document. ``build`` is the id of a build that KCIDB knows; with it the tests are of
    this build, and the document has no checkouts and builds of its own. Each run is checked and
    given before the next, so that many runs need no memory. Raises UsageError for an origin or id
    that KCIDB refuses, EnvironmentUnfit if kcidb-io is missing.
    """
    if not _ORIGIN.fullmatch(origin):
        raise UsageError(f"--origin {origin}: write a name of a-z, 0-9 and _")
    if build and not _ID.fullmatch(build):
        raise UsageError(f"--build {build}: write ORIGIN:ID, as KCIDB has it")
    _schema()
    return joined(part(name, evidence, origin, build) for name, evidence in runs)


def part(name: str, evidence: Evidence, origin: str = ORIGIN, build: str = "") -> Part:
    """Return a run's part of a document, checked against the schema."""
    objects = _Objects(origin, build)
    run = _digest(_run_identity(evidence))
    tests = objects.add(name, evidence, run)
    rest = {kind: getattr(objects, kind) for kind in _KINDS}
    listed = {kind: [*each.values()] for kind, each in rest.items()}
    _schema().validate({"version": _VERSION, "tests": tests, **listed})
    return Part(run, [json.dumps(test) for test in tests], rest)


def joined(parts: Iterable[Part]) -> Iterator[str]:
    """Give the pieces of a document, JSON text: the tests of each part as it comes, then the rest.

    A run that comes twice is in it once, and so is what several refer to.
    """
    yield f'{{\n"version": {json.dumps(_VERSION)},\n"tests": ['
    separator = "\n"
    runs: set[str] = set()
    rest: dict[str, dict[str, Json]] = {kind: {} for kind in _KINDS}
    for each in parts:
        if each.run in runs:
            continue
        runs.add(each.run)
        for test in each.tests:
            yield separator + test
            separator = ",\n"
        for kind, objects in each.rest.items():
            # The first to refer to an object describes it.
            rest[kind].update((i, o) for i, o in objects.items() if i not in rest[kind])
    yield "\n]"
    for kind, all_objects in rest.items():
        lines = ",\n".join(map(json.dumps, all_objects.values()))
        yield f',\n"{kind}": [\n{lines}\n]'
    yield "\n}\n"


def _schema() -> Any:
    return library("kcidb_io.schema", "a KCIDB document", "kcidb").LATEST


@dataclass(slots=True)
class _Objects:
    """The objects of a run by their ids, by kind; tests are left to who adds the run."""

    origin: str
    build: str
    checkouts: dict[str, Json] = field(default_factory=dict)
    builds: dict[str, Json] = field(default_factory=dict)
    issues: dict[str, Json] = field(default_factory=dict)
    incidents: dict[str, Json] = field(default_factory=dict)

    def add(self, name: str, evidence: Evidence, run: str) -> list[Json]:
        """Add a run with its kernel and known defects; return its tests."""
        tests: dict[str, Json] = {}
        build = self.build or self._add_kernel(evidence, run)
        shared = {"build_id": build, "environment": _environment(evidence)}
        if (started := _time(evidence.kvmtest.started)) is not None:
            shared["start_time"] = started
        about: Json = {"run": printable(name)} if name else {}
        if evidence.strict:
            about["strict"] = True
        for result in evidence.results:
            test = self._add(tests, f"{run}:{result.id}", {**shared, **_test(result, about)})
            if result.known_defect:
                self._add_incident(result, test)
        if problem := run_problem(evidence):
            self._add(tests, f"{run}:{RUN}", {**shared, **_run(problem, about, evidence)})
        return [*tests.values()]

    def _add_kernel(self, evidence: Evidence, run: str) -> str:
        """Add the kernel of a run; return the id of its build."""
        kernel = evidence.kernel
        name = printable(kernel.release or kernel.missing or "an unknown kernel")
        identity = _digest(_kernel_identity(evidence) or [run])
        checkout = self._add(
            self.checkouts, identity, {"comment": _cut(f"Linux {name}"), "valid": True}
        )
        # It was booted, so the build succeeded.
        of_build = {
            "checkout_id": checkout,
            "architecture": "x86_64",
            "compiler": _cut(kernel.compiler or ""),
            "comment": _cut(kernel.version_string or name),
            "status": "PASS",
            "misc": {"modules_laid_over": laid} if (laid := evidence.modules_laid_over) else {},
        }
        return self._add(self.builds, identity, {k: v for k, v in of_build.items() if v})

    def _add_incident(self, result: Result, test: str) -> None:
        """Add the known defect of a test, and whether the test shows it."""
        finding = printable(result.known_defect)
        name = Path(finding).name.removesuffix(".md")
        title = findings().get(name, name)
        about = {"finding": finding, "printed_by": command(finding)}
        issue = self._add(
            self.issues,
            name,
            {
                "version": _ISSUE_VERSION,
                "report_subject": _cut(title),
                "culprit": {"code": True, "tool": False, "harness": False},
                "comment": _cut(title),
                "misc": {key: text for key, text in about.items() if text},
            },
        )
        shows = result.verdict is Verdict.FAIL
        if shows or result.verdict is Verdict.PASS:
            incident = {
                "issue_id": issue,
                "issue_version": _ISSUE_VERSION,
                "test_id": test,
                "present": shows,
                "comment": _cut(result.reason),
            }
            self._add(self.incidents, f"{test.partition(':')[2]}:{name}", incident)

    def _add(self, kind: dict[str, Json], name: str, about: Json) -> str:
        """Add an object; return its id."""
        identifier = f"{self.origin}:{name}"
        kind.setdefault(identifier, {"id": identifier, "origin": self.origin, **about})
        return identifier


def _test(result: Result, about: Mapping[str, Any]) -> Json:
    misc = {**about, "verdict": result.verdict.value}
    if said := words(result):
        misc["said"] = printable(said)
    test: Json = {
        "path": f"kvmtest.{result.id}",
        "status": _STATUS[result.verdict],
        "comment": _cut(f"{result.verdict}: {result.reason}"),
        "duration": result.seconds,
    }
    if behind := [*telling(result), *filter(None, [result.detail])]:
        excerpt = "\n".join([result.reason, *behind])
        test["log_excerpt"] = printable(excerpt, keep="\n\t")[:_EXCERPT]
    if result.verdict is Verdict.MEASURED:
        figures = [each for each in result.readings if each.role is Role.MEASURE]
        misc["figures"] = [_cut(str(each)) for each in figures]
        if numbers := list(_numbers(figures)):
            test["number"] = numbers[0]
    return {**test, "misc": misc}


def _numbers(figures: Iterable[Reading]) -> Iterator[Json]:
    for each in figures:
        if isinstance(each.observed, int | float) and not isinstance(each.observed, bool):
            number = float(each.observed)
            if math.isfinite(number):
                yield {"value": number, **({"unit": "1/SMI"} if " per SMI" in each.what else {})}


def _run(problem: str, about: Mapping[str, Any], evidence: Evidence) -> Json:
    """Return the test that stands for a run which had a problem."""
    status = "ERROR"
    if evidence.kvmtest.interrupted:
        status = "MISS"
    elif evidence.exit_status == UNDECIDED:
        status = "SKIP"
    misc = {**about, "exit_status": evidence.exit_status}
    return {"path": RUN, "status": status, "comment": _cut(problem), "misc": misc}


def _environment(evidence: Evidence) -> Json:
    cpu, lab = evidence.machine.cpu, evidence.machine.lab
    known = facts(evidence)
    misc = {
        name.replace(".", "_"): _cut(known[name])
        for name in ("machine.kind", "hostname", "cpu.vendor", "virtualisation")
        if name in known
    }
    # KernelCI's dashboard groups tests by it.
    misc["platform"] = _cut(f"{lab.emulator} {lab.model}" if lab else model_name(evidence))
    if cpu and cpu.microcode is not None:
        misc["microcode"] = hex(cpu.microcode)
    return {"comment": _cut(f"{machine_words(evidence)}; {cpu_name(evidence)}"), "misc": misc}


def _kernel_identity(evidence: Evidence) -> list[object]:
    """Return what tells one kernel from another; empty if the kernel is not known."""
    kernel, lab = evidence.kernel, evidence.machine.lab
    details = lab and lab.details
    known = [kernel.release, kernel.version_string, details and details.kernel_digest]
    return [*known, evidence.modules_laid_over] if any(known) else []


def _run_identity(evidence: Evidence) -> list[object]:
    """Return what tells one run from another; two checks never take the same nanoseconds."""
    run = evidence.kvmtest
    timed = [[each.id, each.verdict, each.seconds] for each in evidence.results]
    machine = [evidence.machine.hostname, *_kernel_identity(evidence)]
    return [*machine, run.started, run.ended, run.command, timed]


def _digest(identity: list[object]) -> str:
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _time(text: str) -> str | None:
    """Return a time as the schema wants it; None for another text."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when.isoformat() if when.tzinfo else None


def _cut(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _COMMENT else f"{text[: _COMMENT - 1]}…"
