"""kvmtest smi probe
=================

Which SMI sources work on this machine, each proved by a count; as a table and as JSON.
"""

import json
import statistics
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from rich.text import Text

from kvmtest import __version__
from kvmtest.errors import KvmtestError, UsageError
from kvmtest.host.changes.journal import Journal
from kvmtest.host.facts.recorded import machine_facts, plain
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi import (
    AFTER,
    BY_NAME,
    Proof,
    SmiCount,
    Source,
    choose,
    counts,
    prove,
    ready,
    sources,
    split,
)

from .terminal import Progress, console, facts_table

__all__ = ["probe"]


def probe(
    root: Path, wanted: str | None, *, triggers: int, rate_hz: float, as_json: bool = False
) -> int:
    """Prove the source that is wanted, or all that may be tried unasked; print what came of it.

    Returns the exit status: 0 where some source is proved, else 4. Raises UsageError for a rate
    that a source does not take, and LockHeld where another run would see the SMIs.
    """
    machine = Machine(Tree(root))
    count = counts(machine)
    found = {split(wanted)[0]: choose(machine, wanted)} if wanted else sources(machine)
    proofs: dict[str, Proof | Missing] = {}
    with nullcontext() if isinstance(count, Missing) else closing(count):
        for name, source in found.items():
            if isinstance(source, Missing):
                proofs[name] = source
            elif isinstance(count, Missing):
                proofs[name] = count
            else:
                untried = None if wanted else _untried(name, proofs)
                proofs[name] = untried or _prove(
                    machine,
                    source,
                    count,
                    triggers,
                    rate_hz if wanted else min(rate_hz, source.fastest_hz),
                )
    if as_json:
        print(json.dumps(_as_dict(machine, count, found, proofs), indent=1))  # noqa: T201
    else:
        _show(count, found, proofs)
    return 0 if any(_holds(proof) for proof in proofs.values()) else 4


def _untried(name: str, proofs: Mapping[str, Proof | Missing]) -> Missing | None:
    """Return why a source that nobody asked for is not tried after these, or None."""
    untried, remedy = "it looks usable, and was not tried", f"use --source {name}"
    if name in BY_NAME:
        return Missing(untried, remedy)
    for tried, proof in proofs.items():
        if isinstance(proof, Proof) and proof.troubled:
            return Missing(f"{untried}, as the kernel reported trouble after {tried}")
    first = AFTER.get(name)
    if first is not None and not _holds(proofs[first]):
        return Missing(f"{untried}, as {first} is not proved", remedy)
    return None


def _prove(
    machine: Machine, source: Source, count: SmiCount, triggers: int, rate_hz: float
) -> Proof:
    """Prove one source, while no other run can see its SMIs."""
    with Journal.open(machine.tree) as journal:
        log = KernelLog.open(machine.tree)
        with Progress() as progress, nullcontext() if isinstance(log, Missing) else log:
            progress.say(Text(f"{source.name}: {source.describes}"))
            try:
                with ready(source, journal) as each:
                    return prove(each, count, log, triggers=triggers, rate_hz=rate_hz)
            except UsageError:
                raise
            except KvmtestError as error:
                return Proof(source.name, count.name, refusal=str(error))


def _holds(proof: Proof | Missing) -> bool:
    return isinstance(proof, Proof) and proof.refusal is None


def _as_dict(
    machine: Machine,
    count: SmiCount | Missing,
    found: dict[str, Source | Missing],
    proofs: dict[str, Proof | Missing],
) -> dict[str, Any]:
    return {
        "kvmtest": __version__,
        "machine": machine_facts(machine),
        "count": plain(count) if isinstance(count, Missing) else count.name,
        "sources": {
            name: plain(proof)
            if isinstance(source, Missing)
            else {
                "describes": source.describes,
                "changes": source.changes,
                "proved": _holds(proof),
                **plain(proof),
            }
            for (name, source), proof in zip(found.items(), proofs.values(), strict=True)
        },
    }


def _show(
    count: SmiCount | Missing,
    found: dict[str, Source | Missing],
    proofs: dict[str, Proof | Missing],
) -> None:
    screen = console()
    counted_by = str(count) if isinstance(count, Missing) else count.name
    screen.print(facts_table([("SMIs counted by", counted_by)]))
    screen.print("\n[bold]SMI sources[/]")
    screen.print(facts_table((f"  {name}", _row(found[name], proofs[name])) for name in found))


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
