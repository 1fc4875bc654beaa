"""Diagnosis of a machine
======================

Whether SMIs pollute what is counted on a machine, what it can prove, what it lacks and what to do,
in words.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.text import Text

from kvmtest.diagnosis import Diagnosis
from kvmtest.errors import printable
from kvmtest.missing import Missing
from kvmtest.pollution import Answer, Tone
from kvmtest.properties import WITNESSES

from .terminal import facts_table, grouped, numbered_table, reasons_table

__all__ = ["page"]

_STYLES = {Tone.GOOD: "green", Tone.BAD: "bold red", Tone.OPEN: ""}


def page(found: Diagnosis) -> Iterator[RenderableType]:
    """Give the five answers on pollution, then what is there, then what is missing.

    A table at the end has each missing thing once; the other parts refer to its number.
    """
    there = [(name, fact) for name, fact in found.facts if isinstance(fact, str)]
    not_there = [(name, fact) for name, fact in found.facts if isinstance(fact, Missing)]
    numbered = _Numbered(
        [
            *found.properties.values(),
            *found.witnesses.values(),
            found.pollution.missing,
            (fact for _, fact in not_there),
        ]
    )
    yield facts_table((each.question, numbered.answer(each)) for each in found.pollution.answers)
    yield ""
    yield Text(found.good_for, "bold")
    leads = ["next:", *["  or:"] * len(found.next_steps)]
    steps = zip(leads, found.next_steps, strict=False)
    yield facts_table((f"{lead} {command}", what) for lead, (command, what) in steps)
    yield ""
    yield facts_table(there)
    yield "\n[bold]witnesses[/]"
    yield facts_table(
        (f"  {name}", WITNESSES[name].observes)
        for name, lacks in found.witnesses.items()
        if not lacks
    )
    yield "\n[bold]can be decided here[/]"
    can = " ".join(property_id for property_id, lacks in found.properties.items() if not lacks)
    yield facts_table([("", can or "nothing")])
    cannot = {p: numbered.numbers(lacks) for p, lacks in found.properties.items() if lacks}
    if cannot:
        yield ""
        rows = ((" ".join(ids), numbers) for numbers, ids in grouped(cannot).items())
        yield reasons_table("can't be decided here", rows)
    blind = [(f"witness {name}", lacks) for name, lacks in found.witnesses.items() if lacks]
    absent = [*blind, *((name, [fact]) for name, fact in not_there)]
    if absent:
        yield ""
        yield reasons_table("not here", ((n, numbered.numbers(lacks)) for n, lacks in absent))
    if numbered.rows:
        yield ""
        yield numbered_table(found.shortened.get(each, each) for each in numbered.rows)


class _Numbered:
    """Missing things with numbers, the most wanted first."""

    def __init__(self, wanted: Iterable[Iterable[Missing]]) -> None:
        counts = Counter(missing for things in wanted for missing in things)
        self.rows = [missing for missing, _ in counts.most_common()]

    def numbers(self, things: Iterable[Missing]) -> str:
        """Return the numbers of some missing things."""
        return " ".join(str(number) for number in sorted(map(self._number, things)))

    def answer(self, answer: Answer) -> Text:
        """Return an answer in words, with the number of what is missing for a better one."""
        see = f" (see {self._number(answer.missing)})" if answer.missing else ""
        text = Text(printable(f"{answer.words}{see}"))
        text.stylize(_STYLES[answer.tone], 0, len(answer.words.partition(":")[0]))
        return text

    def _number(self, missing: Missing) -> int:
        return self.rows.index(missing) + 1
