"""A watch
=======

What was seen of a VMM's vCPUs, in words.
"""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kvmtest.errors import printable
from kvmtest.judge import Verdict
from kvmtest.watch import Figures, Watched

from .terminal import STYLES, facts_table, numbered_table

__all__ = ["page"]

#: How many reasons of VM-exits a vCPU's row names.
REASONS = 3


def page(watched: Watched) -> Iterator[RenderableType]:
    """Give the VMM, a row for each vCPU, what is missing, and the verdict."""
    vmm = watched.vmm
    yield facts_table(
        [
            ("process", f"{vmm.name} (pid {vmm.pid}), vCPUs: {len(vmm.vcpus)}"),
            ("knob", f"toggled {watched.toggles} times, and put back" * bool(watched.toggles)
             or "not toggled"),
        ]
    )  # fmt: skip
    yield ""
    yield _vcpus(watched)
    yield from (
        Text(f"vCPU {each.vcpu} exits by {_reasons(each)}") for each in watched.vcpus if each.exits
    )
    yield ""
    if watched.missing:
        yield numbered_table(watched.missing)
        yield ""
    verdict = watched.judgement.verdict
    # The reason of a SKIP is what the table above has.
    is_told = verdict is Verdict.SKIP and watched.missing
    told = "nothing was decided, for what is missing"
    reason = told if is_told else printable(watched.judgement.reason)
    yield Text.assemble((verdict.value, STYLES[verdict]), f" {reason}")


def _vcpus(watched: Watched) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("vCPU", "thread", "KVM_RUN/s", "entries/s", "exits/s", "toggles seen"):
        table.add_column(column)
    for each in watched.vcpus:
        seen = f"{each.saw} of {each.entered}" if each.entered else "-"
        thread = "?" if each.thread is None else str(each.thread)
        least = ">" * each.lost
        traced = (f"{least}{_rate(rate)}" for rate in (each.entry_rate, each.exit_rate))
        rates = (_rate(each.runs), *traced)
        table.add_row(str(each.vcpu), thread, *rates, seen)
    return table


def _rate(rate: float | None) -> str:
    """Return a rate in a few digits, without an exponent."""
    return "-" if rate is None else f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def _reasons(figures: Figures) -> str:
    total = figures.exits.total()
    most = figures.exits.most_common(REASONS)
    named = ", ".join(f"{printable(name)} {100 * count / total:.0f} %" for name, count in most)
    return named + (", …" if len(figures.exits) > REASONS else "")
