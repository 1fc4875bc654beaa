"""Diagnosis of a machine
======================

What a machine can prove, what it lacks and what to do next, in words.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.text import Text

from kvmtest.diagnosis import Diagnosis, Fact
from kvmtest.missing import Missing
from kvmtest.properties import WITNESSES

from .terminal import facts_table, grouped, numbered_table, reasons_table

__all__ = ["page"]


def page(found: Diagnosis) -> Iterator[RenderableType]:
    """Give what the machine can prove and what to do next; then facts, witnesses, properties.

    A table at the end has each missing thing once; the other parts refer to its number.
    """
    missing = _Numbered([*found.properties.values(), *found.witnesses.values()])
    yield Text(found.good_for, "bold")
    leads = ["next:", *["  or:"] * len(found.next_steps)]
    steps = zip(leads, found.next_steps, strict=False)
    yield facts_table((f"{lead} {command}", what) for lead, (command, what) in steps)
    yield ""
    yield facts_table((name, missing.fact(fact)) for name, fact in found.facts)
    yield "\n[bold]witnesses[/]"
    yield facts_table(
        (f"  {name}", missing.witness(name, m)) for name, m in found.witnesses.items()
    )
    yield "\n[bold]can be decided here[/]"
    can = " ".join(property_id for property_id, lacks in found.properties.items() if not lacks)
    yield facts_table([("", can or "nothing")])
    cannot = {p: missing.numbers(lacks) for p, lacks in found.properties.items() if lacks}
    if cannot:
        yield ""
        yield reasons_table((" ".join(ids), numbers) for numbers, ids in grouped(cannot).items())
    if missing.rows:
        yield ""
        yield numbered_table(found.shortened.get(each, each) for each in missing.rows)


class _Numbered:
    """Missing things with numbers, the most wanted first."""

    def __init__(self, wanted: Iterable[Iterable[Missing]]) -> None:
        counts = Counter(missing for things in wanted for missing in things)
        self.rows = [missing for missing, _ in counts.most_common()]

    def numbers(self, things: Iterable[Missing]) -> str:
        """Return the numbers of some missing things."""
        return " ".join(str(number) for number in sorted(map(self._number, things)))

    def fact(self, fact: Fact) -> str:
        """Return a fact in words; a missing fact by its number, if it has one."""
        if isinstance(fact, str):
            return fact
        return f"missing: see {self._number(fact)}" if fact in self.rows else str(fact)

    def witness(self, name: str, lacks: list[Missing]) -> str:
        """Return whether a witness can look."""
        return f"missing: see {self.numbers(lacks)}" if lacks else WITNESSES[name].observes

    def _number(self, missing: Missing) -> int:
        return self.rows.index(missing) + 1
