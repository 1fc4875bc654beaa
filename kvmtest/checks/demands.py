"""Demands
=======

What ``--require`` demands of each property on this machine: which properties answer for a witness
or a feature, and what they lack.
"""

from collections.abc import Iterable, Iterator, Sequence

from kvmtest.errors import UsageError
from kvmtest.host.machine import Machine
from kvmtest.judge.requirements import Demand, Kind, Requirement
from kvmtest.marker_expression import marker_expression
from kvmtest.properties import PROPERTIES, WITNESSES, Property, find, select

from .preconditions import PRECONDITIONS, answer, blocking, unmet_needs

__all__ = ["Demands", "asked_for", "required_of", "requirement"]


def requirement(text: str) -> Requirement:
    """Return what ID, witness:NAME or feature:NAME requires; raises UsageError."""
    kind, colon, name = text.partition(":")
    if not colon:
        return Requirement(text, Kind.PROPERTY, text, frozenset({find(text).id}))
    tables = {"witness": list(WITNESSES), "feature": list(PRECONDITIONS)}
    known = tables.get(kind)
    if known is None or name not in known:
        names = ", ".join(known or ("witness:NAME", "feature:NAME", "a property's id"))
        raise UsageError(f"--require {text}: it takes {names}")
    concerned = frozenset(p.id for p in PROPERTIES if name in _asks_for(p, kind))
    return Requirement(text, Kind(kind), name, concerned)


def asked_for(
    only: Sequence[str], marker: str | None, require: Sequence[str]
) -> tuple[Sequence[Property], list[Requirement]]:
    """Return the chosen properties and the requirements of a run; raises UsageError."""
    chosen = select(list(only))
    if marker is not None:
        matches = marker_expression(marker)
        chosen = tuple(p for p in chosen if matches(p.markers))
        if not chosen:
            raise UsageError(f"-m {marker}: no property{' of --only' * bool(only)} matches it")
    return chosen, required_of(chosen, require)


def required_of(chosen: Sequence[Property], require: Sequence[str]) -> list[Requirement]:
    """Return the requirements; raises UsageError for one that concerns no chosen property."""
    requirements = [requirement(text) for text in require]
    for required in requirements:
        if not required.properties & {p.id for p in chosen}:
            raise UsageError(
                f"--require {required.text}: no property that it concerns is chosen; choose one"
            )
    return requirements


def _asks_for(prop: Property, kind: str) -> set[str]:
    if kind == "witness":
        return set(prop.witnesses) - set(prop.figures)
    return {*prop.asks, *(need for w in prop.witnesses for need in WITNESSES[w].needs)}


class Demands:
    """The demands of requirements on a run of the properties ``chosen`` on ``machine``.

    ``met_by_reload`` are needs that a reload of the KVM module meets while a property is decided.
    """

    def __init__(
        self,
        machine: Machine,
        requirements: Iterable[Requirement],
        chosen: Sequence[Property],
        met_by_reload: Iterable[str] = (),
    ) -> None:
        self._machine = machine
        self._requirements = list(requirements)
        self._chosen = chosen
        self._met_by_reload = frozenset(met_by_reload)
        self._answerable: dict[str, frozenset[str]] = {}

    def of(self, prop: Property) -> list[Demand]:
        """Return the demands on a property; call this while the property is decided."""
        return list(self._demands(prop))

    def _demands(self, prop: Property) -> Iterator[Demand]:
        for required in self._requirements:
            if prop.id not in required.properties:
                continue
            if required.text not in self._answerable:
                answerable = frozenset(p.id for p in self._answers(required))
                self._answerable[required.text] = answerable
            if prop.id not in self._answerable[required.text]:
                continue
            lacks = ""
            if required.kind is Kind.FEATURE and (missing := answer(self._machine, required.name)):
                lacks = str(missing)
            yield Demand(required.text, required.kind, required.name, lacks)

    def _answers(self, required: Requirement) -> Sequence[Property]:
        """Return the properties that FAIL if the requirement is not met: at least one.

        Those that show the requirement come first, then those with a check, then all concerned.
        """
        concerned = [p for p in self._chosen if p.id in required.properties]
        checked = [p for p in concerned if p.has_check]
        match required.kind:
            case Kind.PROPERTY:
                return concerned
            case Kind.WITNESS:
                best = [p for p in checked if self._own_needs_are_met(p)]
            case Kind.FEATURE:
                best = [p for p in checked if required.name in blocking(self._machine, p)]
        return best or checked or concerned

    def _own_needs_are_met(self, prop: Property) -> bool:
        return set(unmet_needs(self._machine, prop)) <= self._met_by_reload
