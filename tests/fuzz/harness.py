"""The harness of one parser, and the definition of a finding.

A parser of foreign input may refuse it by the errors that it documents, in one line. Any other
exception is a finding, and so is an input that takes it too long, or more memory than a small file
is worth.
"""

import importlib
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NAMES", "Finding", "Harness", "check", "found_before", "load"]

# In the order of value: what other people hand in first, what the machine itself says last.
NAMES = (
    "btf",
    "btf_split",
    "kernel_log",
    "vmcs_dump",
    "evidence",
    "deb",
    "deb_tar",
    "rpm",
    "elf",
    "modules",
    "bzimage",
    "flat_kernel",
    "compression",
    "channel",
    "journal_record",
    "fadt",
    "tracing",
    "packages",
    "event",
    "host_files",
    "lock",
    "qemu_monitor",
    "lab_variable",
    "survey",
)

#: CPU time, as other work on the machine does not matter.
LONGEST_S = 1.0
#: How much one input may raise the process's memory: inputs are of a few KiB.
MOST_BYTES = 64 << 20

FOUND = Path(__file__).parent / "found"


class Finding(AssertionError):
    """A parser broke a rule with an input."""


@dataclass(frozen=True)
class Harness:
    """How one parser is fuzzed.

    ``parse`` gives it an input and looks at all that comes out; it may raise ``refusals`` alone.
    ``seeds`` are whole inputs that it accepts, ``refused`` some that it refuses. ``longest`` is the
    size, in bytes, up to which inputs are made. ``mutate`` makes an input of another one where
    random bytes would seldom be of use.
    """

    parse: Callable[[bytes], object]
    seeds: Sequence[bytes]
    refused: Sequence[bytes] = ()
    refusals: tuple[type[Exception], ...] = ()
    longest: int = 4096
    mutate: Callable[[bytes, int, int], bytes] | None = None


def load(name: str) -> Harness:
    """Return the harness of that name."""
    harness: Harness = importlib.import_module(f"fuzz.harnesses.{name}").HARNESS
    return harness


def found_before(name: str) -> list[Path]:
    """Return the inputs that were findings once."""
    return sorted((FOUND / name).glob("*"))


def check(harness: Harness, data: bytes) -> bool:
    """Give the parser an input; tell whether it was accepted. Raises Finding, or what it raised."""
    began, peak = time.thread_time(), _peak_bytes()
    accepted = False
    try:
        harness.parse(data)
        accepted = True
    except harness.refusals as error:
        if "\n" in str(error):
            raise Finding(f"an error of several lines: {error!r}") from error
    seconds, grown = time.thread_time() - began, _peak_bytes() - peak
    if seconds > LONGEST_S:
        raise Finding(f"{len(data)} bytes took {seconds:.1f} s")
    if grown > MOST_BYTES:
        raise Finding(f"{len(data)} bytes took {grown >> 20} MiB")
    return accepted


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
