"""SMI sources
===========

Which SMI sources work on a machine, in words.
"""

import statistics
from collections.abc import Iterator

from rich.console import RenderableType

from kvmtest.missing import Missing
from kvmtest.smi import Proof, Source
from kvmtest.smi.probe import Probed

from .terminal import facts_table

__all__ = ["page"]


def page(probed: Probed) -> Iterator[RenderableType]:
    """Give what counts SMIs, and a row for each source."""
    count, found, proofs = probed.count, probed.found, probed.proofs
    counted_by = str(count) if isinstance(count, Missing) else count.name
    yield facts_table([("SMIs counted by", counted_by)])
    yield "\n[bold]SMI sources[/]"
    yield facts_table((f"  {name}", _row(found[name], proofs[name])) for name in found)


def _row(source: Source | Missing, proof: Proof | Missing) -> str:
    if isinstance(source, Missing):
        return str(source)
    first, *others = [str(proof)] if isinstance(proof, Missing) else _lines(proof)
    return "\n".join([first, f"{source.describes}; changes {source.changes}", *others])


def _lines(proof: Proof) -> Iterator[str]:
    # Two digits say it, without an exponent.
    safe = "" if proof.safe_hz is None else f", safe up to {float(f'{proof.safe_hz:.2g}'):g} Hz"
    yield f"proved{safe}" if proof.refusal is None else f"not proved: {proof.refusal}"
    if proof.counted:
        sent = "" if proof.sent is None else f"sent: {proof.sent}; "
        yield f"{sent}SMIs counted: {_per_cpu(proof.counted)}"
    if proof.latencies_s:
        low, middle, high = (
            f"{each(proof.latencies_s) * 1e3:.3f}" for each in (min, statistics.median, max)
        )
        yield f"time each took: {low} to {high} ms, median {middle} ms"
    if proof.unwatched:
        yield f"the kernel log was not watched: {proof.unwatched}"


def _per_cpu(counted: dict[int, int]) -> str:
    """Return counts in words, such as "20 on each of 8 CPUs"."""
    least, most = min(counted.values()), max(counted.values())
    if least == most:
        return f"{most} on each of {len(counted)} CPUs" if len(counted) > 1 else str(most)
    if len(counted) > 4:
        return f"{least} to {most} on each of {len(counted)} CPUs"
    return ", ".join(f"{number} on CPU {cpu}" for cpu, number in counted.items())
