"""Pollution by SMIs
=================

Do SMIs pollute what perf and rr count on this machine? What is seen of the knob, of bit 14 in each
CPU's IA32_DEBUGCTL, of the running kernel's KVM and of SMIs in a short time; and what to do.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from enum import Enum, auto
from textwrap import shorten
from typing import Any

from kvmtest.errors import KvmtestError
from kvmtest.host.as_json import plain
from kvmtest.host.facts.cpu import cpu_list
from kvmtest.host.facts.freeze_knob import Knob, KnobError
from kvmtest.host.facts.msr import IA32_DEBUGCTL, MsrError, freeze_bit
from kvmtest.host.machine import Machine
from kvmtest.kernels.series import FIX, Evidence, Finding, State, finding_of, unknown
from kvmtest.missing import Missing
from kvmtest.smi import bystander_counts
from kvmtest.smi.watch import watch

__all__ = ["Answer", "Pollution", "Smis", "Tone", "observed"]

#: What a line of 80 columns has for an answer, between its question and the number of a reason.
_ROOM = 56

_SHORT_NAMES = {Evidence.CODE: "code"}


class Tone(Enum):
    """How good an answer is for somebody who counts events."""

    GOOD = auto()
    BAD = auto()
    OPEN = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question; ``missing`` is what keeps it from being a better one.

    The answer itself is what ``words`` has before a colon.
    """

    question: str
    words: str
    tone: Tone
    missing: Missing | None = None


@dataclass(frozen=True, slots=True)
class Smis:
    """The SMIs that each CPU took in ``seconds``, and in ``since_reset`` where the count has it."""

    by_cpu: Mapping[int, int]
    seconds: float
    counted_by: str
    since_reset: Mapping[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Pollution:
    """What was seen.

    ``has_bit`` tells that Linux drives FREEZE_WHILE_SMM on CPUs of this vendor; True where there is
    no telling. ``knob_path`` is None where there is no knob. ``bits`` are bit 14 of each CPU's
    IA32_DEBUGCTL. ``fix`` is what inspection finds of the fix in the running kernel, whose upstream
    ``version`` may be unknown.
    """

    has_bit: bool
    is_virtual: bool
    knob_path: str | None
    knob: int | Missing
    bits: Mapping[int, int] | Missing
    fix: Finding
    version: tuple[int, int, int] | None
    smis: Smis | Missing

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The five answers, each in one line of 80 columns."""
        return self._knob(), self._bits(), self._guests(), self._smis(), self._advice()

    @property
    def missing(self) -> Iterator[Missing]:
        """What is missing for better answers."""
        return (answer.missing for answer in self.answers if answer.missing)

    def to_dict(self) -> dict[str, Any]:
        """Return this as values for JSON."""
        return {
            "freeze_on_smi": plain(self.knob),
            "bits": plain(self.bits),
            "fix": {"state": self.fix.state, "evidence": list(self.fix.evidence)},
            "smis": plain(self.smis),
            "answers": {each.question: each.words for each in self.answers},
        }

    def _knob(self) -> Answer:
        question = "freeze_on_smi"
        if isinstance(self.knob, Missing):
            if not self.has_bit:
                words = "none here: this CPU has no such bit"
            else:
                words = _because("unknown" if self.knob_path else "none here", self.knob)
            return Answer(question, words, Tone.OPEN, self.knob)
        return Answer(question, *(("on", Tone.GOOD) if self.knob else ("off", Tone.BAD)))

    def _bits(self) -> Answer:
        question, bits = "on every CPU", self.bits
        if isinstance(bits, Missing):
            return Answer(question, _because("unknown", bits), Tone.OPEN, bits)
        said, values = "MSR 0x1d9 bit 14 is", sorted(set(bits.values()))
        if len(values) == 1:
            all_cpus = f"{len(bits)} of {len(bits)}"
            lead, tone = "", Tone.OPEN
            if self.knob == 1:
                lead, tone = ("yes: ", Tone.GOOD) if values == [1] else ("no: ", Tone.BAD)
            return Answer(question, f"{lead}{said} {values[0]} on {all_cpus}", tone)
        wrong = 1 if self.knob == 0 else 0
        some = [cpu for cpu, bit in bits.items() if bit == wrong]
        which = f"CPU {cpu_list(some)}"
        where = which if len(which) < _ROOM // 2 else f"{len(some)} of {len(bits)}"
        return Answer(question, f"no: {said} {wrong} on {where}", Tone.BAD)

    def _guests(self) -> Answer:
        question = "in guests"
        if not self.has_bit:
            return Answer(question, "nothing to keep: this CPU has no such bit", Tone.OPEN)
        by = ", ".join(_SHORT_NAMES.get(each, each) for each in self.fix.evidence)
        match self.fix.state:
            case State.PRESENT:
                return Answer(question, f"kept: this kernel has the fix ({by})", Tone.GOOD)
            case State.ABSENT:
                return Answer(question, f"lost: this kernel lacks the fix ({by})", Tone.BAD)
        what = f"whether this kernel has the fix can't be seen: {self.fix.observation}"
        missing = Missing(what, "kvmtest kernel inspect -v says more")
        return Answer(question, _because("unknown", missing), Tone.OPEN, missing)

    def _smis(self) -> Answer:
        question, smis = "SMIs", self.smis
        if isinstance(smis, Missing):
            return Answer(question, _because("not counted", smis), Tone.OPEN, smis)
        where = " of this VM" * self.is_virtual
        said = f"{_spread(smis.by_cpu)} a CPU{where} in {smis.seconds:.2g} s ({smis.counted_by})"
        if smis.since_reset and not self.is_virtual:
            said += f"; {_spread(smis.since_reset)} since reset"
        return Answer(question, said, Tone.OPEN)

    def _advice(self) -> Answer:
        words, tone, missing = self._to_do()
        return Answer("what to do", words, tone, missing)

    def _to_do(self) -> tuple[str, Tone, Missing | None]:
        """Return the first thing that mends something."""
        if not self.has_bit:
            if isinstance(self.smis, Missing):
                return "count SMIs beside, once that is possible", Tone.OPEN, self.smis
            return "count SMIs beside it: kvmtest smi watch", Tone.OPEN, None
        if isinstance(self.knob, Missing):
            return _remedy(self.knob)
        if self.knob == 0:
            then = f"; boot {self._fixed_in()}+" if self.fix.state is State.ABSENT else ""
            return f"echo 1 > {self.knob_path}{then}", Tone.BAD, None
        if isinstance(self.bits, Missing):
            return _remedy(self.bits)
        if 0 in self.bits.values():
            if self.is_virtual:
                return "run on bare metal: this is a virtual machine", Tone.BAD, None
            return f"echo 0 > {self.knob_path}; then 1; look again", Tone.BAD, None
        if self.fix.state is State.ABSENT:
            return f"boot Linux {self._fixed_in()} or later, or run no guest", Tone.BAD, None
        if self.fix.state is State.UNKNOWN:
            return "kvmtest run: it shows if guests keep it", Tone.OPEN, None
        if isinstance(self.smis, Missing):
            return _remedy(self.smis)
        return "nothing: kvmtest run would prove it", Tone.GOOD, None

    def _fixed_in(self) -> str:
        """Return the first release with the fix: of this kernel's series, or the mainline's."""
        series = self.version[:2] if self.version else None
        patch = FIX.first_in(series) if series else None
        if series and patch and self.version and self.version[2] < patch:
            return f"{series[0]}.{series[1]}.{patch}"
        return FIX.in_version.removeprefix("v")


def observed(machine: Machine, seconds: float) -> Pollution:
    """Look at the machine, and count SMIs meanwhile: for so many seconds, 0 for not at all."""
    if not seconds:
        what = "SMIs were not counted: --seconds is 0"
        return _seen(machine, Missing(what, "leave out --seconds 0"))
    count = bystander_counts(machine)
    if isinstance(count, Missing):
        return _seen(machine, count)
    with closing(count):
        looks = watch(count, seconds, seconds)
        try:
            next(looks)
            seen = _seen(machine, Missing("the count of SMIs has not ended"))
            tally = next(looks)
            total = count.read_all() if count.is_since_reset else None
        except KvmtestError as error:
            return _seen(machine, Missing(f"SMIs could not be counted: {error}"))
    return replace(seen, smis=Smis(tally.smis, tally.seconds, count.name, total))


def _seen(machine: Machine, smis: Smis | Missing) -> Pollution:
    cpu, knob, kernel = machine.cpu, machine.knob, machine.kernel
    return Pollution(
        has_bit=isinstance(cpu, Missing) or cpu.vendor == "intel",
        # A lab's count is that of the machine that it emulates.
        is_virtual=machine.virtualisation.is_virtual and not machine.lab,
        knob_path=None if isinstance(knob, Missing) else knob.paths[0],
        knob=_value(knob),
        bits=_freeze_bits(machine),
        fix=_fix(machine),
        version=None if isinstance(kernel, Missing) else kernel.version,
        smis=smis,
    )


def _value(knob: Knob | Missing) -> int | Missing:
    try:
        return knob if isinstance(knob, Missing) else knob.value()
    except KnobError as error:
        return Missing(str(error))


def _freeze_bits(machine: Machine) -> dict[int, int] | Missing:
    msrs = machine.msr
    if isinstance(msrs, Missing):
        return msrs
    try:
        return {cpu: freeze_bit(value) for cpu, value in msrs.read_all(IA32_DEBUGCTL).items()}
    except MsrError as error:  # a CPU that went offline since
        return Missing(str(error))


def _fix(machine: Machine) -> Finding:
    """Return what inspection finds of the fix in the running kernel."""
    if machine.lab:
        # What reads kernels as files is not in the lab's machines, whose types are enough.
        return _fix_by_types(machine)
    from kvmtest.host.facts.kernel_parts import running_parts
    from kvmtest.kernels.inspection import inspected

    parts = running_parts(machine.tree)
    if isinstance(parts, Missing):
        return finding_of(FIX, unknown(str(parts)))
    found = finding_of(FIX, inspected(parts))
    why = found.observation or (parts.lacks[0] if parts.lacks else "there is no file of KVM")
    return replace(found, observation=why)


def _fix_by_types(machine: Machine) -> Finding:
    fix = machine.fix
    if isinstance(fix, Missing):
        return finding_of(FIX, unknown(str(fix)))
    if not fix.is_of_kvm:
        return finding_of(FIX, unknown(f"{fix.where} does not describe KVM"))
    state = State.PRESENT if fix.is_present else State.ABSENT
    return Finding(FIX, state, (Evidence.TYPES,))


def _remedy(missing: Missing) -> tuple[str, Tone, Missing | None]:
    """Return a remedy in a line; where there is no room for it, its begin and where it stands."""
    words = _shortened(missing.remedy or "get what is missing", _ROOM)
    return words, Tone.OPEN, None if words == missing.remedy else missing


def _because(words: str, missing: Missing) -> str:
    """Return an answer in a few words with its reason."""
    return f"{words}: {_shortened(missing.brief, _ROOM - len(f'{words}: '))}"


def _shortened(text: str, room: int) -> str:
    return shorten(text, room, placeholder=" …")


def _spread(counts: Mapping[int, int]) -> str:
    """Return counts by CPU in words: "3", or "3 to 5"."""
    least, most = min(counts.values()), max(counts.values())
    return str(least) if least == most else f"{least} to {most}"
