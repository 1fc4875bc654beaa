"""The emulator's self-test
========================

Runs two small machines, of one CPU and of two, in a build of the emulator, and compares what they
report with expectations.py. Each machine is saved amid the test and goes on in a second process. A
build that fails must not be used.
"""

import hashlib
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.digest import of_parts
from kvmtest.lab.emulators.emulator import Hardware, Launch, text_of

from .configuration import Drives, Ports, Variant, bochsrc
from .expectations import FIRST_PROCESS_ENDS_WITH, expectations
from .log import LOG, last_words

__all__ = ["ROM", "Check", "Program", "SelfTest", "SelfTestFailed", "judge", "proved", "run"]

#: What the machines have in place of a BIOS (c_helpers/selftest).
ROM = Path(__file__).with_name("selftest.rom")

#: Numbers of CPUs of the machines that are run.
MACHINES = (1, 2)

# Of one process of the emulator; each takes a tenth of a second.
DEADLINE_S = 20.0

_MEMORY_MIB = 32
_LINE = re.compile(r"([a-z0-9.-]+) (\d{1,20})\n")
# The files of a machine, in the folder that its processes run in.
_CONFIG, _STATE, _PARALLEL, _ROM = map(Path, ("bochsrc", "state", "parallel", "rom"))
# The last lines of the two processes of a machine.
_LAST_LINES = (f"{FIRST_PROCESS_ENDS_WITH} 1", "end 1")
# What the cache keeps of a test that passed.
_RESULT, _SUMMARY = "selftest.json", "summary"
_CPUS_TESTED = " and ".join(map(str, MACHINES))
_NOT_HERE = ("ata", "boot:", "com1:")


class SelfTestFailed(EnvironmentUnfit):
    """A build of the emulator must not be used; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Program:
    """A build of the emulator.

    ``start`` says how it is started with the arguments ``-f FILE`` or ``-r FOLDER``: the machine is
    saved at its breakpoint to the folder, if one is given, and ends there.
    """

    variant: Variant
    start: Callable[[Sequence[str], Path | None], Launch]


@dataclass(frozen=True, slots=True)
class Check:
    """One number that a machine reported, or None for a line that is missing."""

    name: str
    what: str
    expected: int
    at_least: bool
    seen: int | None

    @property
    def held(self) -> bool:
        """Whether the number is as expected."""
        if self.seen is None:
            return False
        return self.seen >= self.expected if self.at_least else self.seen == self.expected

    def __str__(self) -> str:
        seen = "nothing" if self.seen is None else self.seen
        bound = "at least " if self.at_least else ""
        return f"{self.what}: {seen} seen, {bound}{self.expected} expected"


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What came of a self-test; ``trouble`` is that of a machine that did not run as it should."""

    checks: tuple[Check, ...]
    trouble: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the build may be used."""
        return bool(self.checks) and not self.trouble and not self._failed()

    @property
    def reason(self) -> str:
        """Why the build may not be used, in one line; "" where it may."""
        if self.passed:
            return ""
        failed = self._failed()
        # A wrong number says more than the end that it led to, and that more than missing lines.
        wrong = [str(check) for check in failed if check.seen is not None]
        missing = [str(check) for check in failed if check.seen is None]
        first = next(iter([*wrong, *filter(None, [self.trouble]), *missing]), "nothing was checked")
        more = f" ({len(failed)} of {len(self.checks)} checks failed)" if failed else ""
        return f"the emulator's self-test failed: {first}{more}"

    def _failed(self) -> list[Check]:
        return [check for check in self.checks if not check.held]

    def to_json(self) -> dict[str, object]:
        """Return it for evidence: each check's name, expected and seen number."""
        checks = [
            {
                "name": check.name,
                "at_least" if check.at_least else "expected": check.expected,
                "seen": check.seen,
            }
            for check in self.checks
        ]
        return {
            "passed": self.passed,
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "checks": checks,
        }


def _numbers(text: str) -> tuple[dict[str, int], str]:
    """Return the numbers by the names of lines, and what is wrong with the first bad line."""
    numbers: dict[str, int] = {}
    for count, line in enumerate(text.splitlines(keepends=True), 1):
        parsed = _LINE.fullmatch(line)
        if parsed is None:
            return numbers, f"line {count} is no name and number: {line[:60]!r}"
        if parsed[1] in numbers:
            return numbers, f"line {count} repeats {parsed[1]}"
        numbers[parsed[1]] = int(parsed[2])
    return numbers, ""


def _of(cpus: int) -> str:
    return f"({cpus} CPU{'s' * (cpus > 1)})"


def judge(cpus: int, outputs: Sequence[str]) -> SelfTest:
    """Judge what the two processes of a machine printed."""
    seen, trouble = _numbers("".join(outputs))
    wanted = expectations(cpus)
    checks = tuple(
        Check(f"{cpus}-cpu/{one.name}", f"{one.what} {_of(cpus)}",
              one.expected(seen), one.at_least, seen.get(one.name))
        for one in wanted
    )  # fmt: skip
    unknown = [name for name in seen if name not in {one.name for one in wanted}]
    if not trouble and unknown:
        trouble = f"the machine reports {unknown[0]} {seen[unknown[0]]}"
    ends = [output.rsplit("\n", 2)[-2:-1] for output in outputs]
    if not trouble and ends != [[line] for line in _LAST_LINES]:
        trouble = f"the two processes end with the lines {ends}"
    return SelfTest(checks, trouble and f"{trouble} {_of(cpus)}")


def _configuration(variant: Variant, cpus: int) -> str:
    """Return the configuration of the lab's machine with the self-test's ROM and no drives."""
    nowhere = Path("none")
    text = bochsrc(
        replace(variant, bios=_ROM),
        Hardware(cpus=cpus, memory=_MEMORY_MIB),
        Drives(nowhere, nowhere),
        Ports(nowhere, _PARALLEL, Path(LOG)),
    )
    kept = [line for line in text.splitlines(keepends=True) if not line.startswith(_NOT_HERE)]
    return "".join(kept)


def _execute(launch: Launch, folder: Path, deadline_s: float) -> str:
    """Run one process of the emulator; return what is wrong with how it ended."""
    environment: Mapping[str, str] = launch.environment
    with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
        try:
            done = subprocess.run(
                launch.command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=deadline_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"the machine did not end within {deadline_s:g} s"
        except OSError as error:
            return f"the emulator can't be started: {error}"
    return f"the emulator was ended by signal {-done.returncode}" if done.returncode < 0 else ""


def _lives(program: Program, cpus: int, folder: Path, deadline_s: float) -> SelfTest:
    """Run a machine in two processes, and judge what it printed."""
    (folder / _CONFIG).write_text(_configuration(program.variant, cpus))
    (folder / _ROM).write_bytes(ROM.read_bytes())
    (folder / _STATE).mkdir()
    outputs: list[str] = []
    trouble = ""
    for arguments, save in ((("-f", str(_CONFIG)), folder / _STATE), (("-r", str(_STATE)), None)):
        # The emulator writes the file anew.
        (folder / _PARALLEL).unlink(missing_ok=True)
        trouble = _execute(program.start(arguments, save), folder, deadline_s)
        outputs.append(text_of(folder / _PARALLEL))
        if not trouble and not outputs[-1].endswith(f"{_LAST_LINES[len(outputs) - 1]}\n"):
            trouble = f"the machine ended early{' when it was restored' if not save else ''}"
        if not trouble and save and not (save / "config").is_file():
            trouble = "the machine was not saved"
        if trouble:
            words = last_words(folder)
            trouble = f"{trouble}{words and ': '}{words} {_of(cpus)}"
            break
    judged = judge(cpus, outputs)
    return SelfTest(judged.checks, trouble or judged.trouble)


def _joined(parts: Iterable[SelfTest], seconds: float) -> SelfTest:
    """Return one self-test of those of all machines."""
    all_of_them = list(parts)
    checks = tuple(check for one in all_of_them for check in one.checks)
    trouble = next((one.trouble for one in all_of_them if one.trouble), "")
    return SelfTest(checks, trouble, seconds)


def run(program: Program, deadline_s: float = DEADLINE_S) -> SelfTest:
    """Run the self-test; ``deadline_s`` is for each of its four processes. Raises OSError."""
    began = time.monotonic()
    parts = []
    for cpus in MACHINES:
        with tempfile.TemporaryDirectory(prefix="kvmtest-selftest-") as folder:
            parts.append(_lives(program, cpus, Path(folder), deadline_s))
    return _joined(parts, time.monotonic() - began)


def proved(cache: Cache, program: Program, digest: str) -> str:
    """Return what a build proved, for evidence; ``digest`` is the build's.

    A build is tested once, and again after each change of the test; the numbers are kept in the
    cache, of tests that passed alone. Raises SelfTestFailed, EnvironmentUnfit.
    """

    def make(folder: Path) -> None:
        done = run(program)
        if not done.passed:
            raise SelfTestFailed(done.reason)
        (folder / _RESULT).write_text(json.dumps(done.to_json(), indent=1))
        (folder / _SUMMARY).write_text(
            f"{len(done.checks)} checks passed, in machines with {_CPUS_TESTED} CPUs"
        )

    test = hashlib.sha256(ROM.read_bytes()).hexdigest()
    rows = [repr(expectations(cpus)) for cpus in MACHINES]
    folder = cache.entry("selftest", of_parts(digest, test, *rows), make)
    return (folder / _SUMMARY).read_text()
