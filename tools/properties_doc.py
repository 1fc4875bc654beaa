"""Writes docs/properties.md from the table in kvmtest.properties."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from kvmtest.checks.preconditions import PRECONDITIONS
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.properties import MARKERS, PROPERTIES, WITNESSES, Property

TARGET = Path(__file__).resolve().parent.parent / "docs" / "properties.md"


def document() -> str:
    """Return the page."""
    lines = [
        "# Properties",
        "",
        "Made by `python tools/properties_doc.py` from `kvmtest/properties.py`, the only list.",
        "",
        "| property | claim | witnesses |",
        "|---|---|---|",
    ]
    lines += [
        f"| [{p.id}](#{_anchor(p.id)}) | {p.claim} | {', '.join(p.witnesses)} |" for p in PROPERTIES
    ]
    lines += ["", "| witness | observes | needs |", "|---|---|---|"]
    lines += [f"| {w.name} | {w.observes} | {', '.join(w.needs)} |" for w in WITNESSES.values()]
    lines += ["", "| need | met where |", "|---|---|"]
    lines += [f"| {need} | {_met_where(ask)} |" for need, ask in PRECONDITIONS.items()]
    lines += ["", "| marker | selects |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, meaning in MARKERS.items()]
    lines += ["", "## Each property"]
    for p in PROPERTIES:
        lines += ["", f"### {p.id}", "", f"{p.claim[0].upper()}{p.claim[1:]}.", ""]
        lines += [f"* {name}: {words}" for name, words in _facts(p) if words]
    return "\n".join(lines) + "\n"


def _met_where(ask: Callable[[Machine], Missing | None]) -> str:
    """Return when a precondition is met, as its function says."""
    words = " ".join((ask.__doc__ or "").partition("\n\n")[0].split())
    return words.partition(";")[0].rstrip(".")


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _facts(prop: Property) -> Iterator[tuple[str, str]]:
    yield "witnesses", ", ".join(prop.witnesses)
    yield "needs", _needs(prop)
    yield "markers", ", ".join(prop.markers)
    yield "source", prop.source
    if not prop.has_check:
        yield "check", "not written yet"


def _needs(prop: Property) -> str:
    by_vendor = " or ".join(f"({', '.join(row)})" for row in prop.vendors)
    return ", ".join([*prop.needs, *([by_vendor] if by_vendor else [])])


if __name__ == "__main__":
    TARGET.write_text(document())
