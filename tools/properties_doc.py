"""Writes docs/properties.md from the table in kvmtest.properties."""

from pathlib import Path

from kvmtest.properties import MARKERS, PROPERTIES, WITNESSES, Property

TARGET = Path(__file__).resolve().parent.parent / "docs" / "properties.md"


def document() -> str:
    """Return the page."""
    lines = [
        "# Properties",
        "",
        "Made by `python tools/properties_doc.py` from `kvmtest/properties.py`, the only list.",
        "",
        "| property | claim | witnesses | needs | markers | source | decided by this version |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.id} | {p.claim} | {', '.join(p.witnesses)} | {_needs(p)} "
        f"| {', '.join(p.markers)} | {p.source} | {'yes' if p.has_check else 'not yet'} |"
        for p in PROPERTIES
    ]
    lines += ["", "| witness | observes | needs |", "|---|---|---|"]
    lines += [f"| {w.name} | {w.observes} | {', '.join(w.needs)} |" for w in WITNESSES.values()]
    lines += ["", "| marker | selects |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, meaning in MARKERS.items()]
    return "\n".join(lines) + "\n"


def _needs(prop: Property) -> str:
    by_vendor = " or ".join(f"({', '.join(row)})" for row in prop.vendors)
    return ", ".join([*prop.needs, *([by_vendor] if by_vendor else [])])


if __name__ == "__main__":
    TARGET.write_text(document())
