"""Writes docs/mutants.md from the table in kvmtest.lab.mutants."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from kvmtest.lab.mutants import MUTANTS, REPAIRS, UNCOVERED, Mutant

TARGET = Path(__file__).resolve().parent.parent / "docs" / "mutants.md"


def document() -> str:
    """Return the page."""
    lines = [
        "# Mutants",
        "",
        "Made by `python tools/mutants_doc.py` from `kvmtest/lab/mutants/`.",
        "",
        "Each mutant is KVM with one fault in the host-owned DEBUGCTL code, or in what AMD "
        "guests see. The property that owns it must FAIL on it; others may too. Where a fault "
        "leaves a wrong value of the host's bit in the VMCS, the last column names a property "
        "that FAILs by what SMIs were counted, whatever other witnesses see.",
        "",
        *_rows(MUTANTS),
        "",
        "## Repairs",
        "",
        "Here the owner FAILs on the stock kernel, and must PASS with the patch.",
        "",
        *_rows(REPAIRS),
        "",
        "## Lines without a mutant of their own",
        "",
        "| line | fault | why there is no mutant |",
        "|---|---|---|",
    ]
    lines += [f"| {_cell(u.line)} | {_cell(u.fault)} | {_cell(u.reason)} |" for u in UNCOVERED]
    return "\n".join(lines) + "\n"


def _rows(mutants: Iterable[Mutant]) -> list[str]:
    return [
        "| mutant | line | what is wrong, and what is seen | owner | needs | by leak |",
        "|---|---|---|---|---|---|",
        *(
            f"| {m.name} | {_cell(m.line)} | {_cell(m.fault)} | {m.owner} "
            f"| {', '.join(_needs(m))} | {m.leak} |"
            for m in mutants
        ),
    ]


def _needs(mutant: Mutant) -> Iterator[str]:
    if mutant.since > (0, 0):
        yield f"Linux {'.'.join(map(str, mutant.since))}"
    yield from (f"CPU flag {flag}" for flag in mutant.cpu_flags)
    yield from mutant.parameters


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    TARGET.write_text(document())
