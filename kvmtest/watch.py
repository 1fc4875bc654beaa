"""Watching a VMM
==============

One watch of a running VMM: who runs its vCPUs and how fast, and whether each vCPU's next VM-entry
after a toggle of the knob takes the host's new bit. The knob is put back by the journal.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from kvmtest import __version__
from kvmtest.checks.any.no_warnings import log_readings
from kvmtest.checks.context import Context, Observations, RunLog
from kvmtest.checks.preconditions import answer
from kvmtest.checks.witnesses.runflags import RunFlagsWitness
from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.as_json import plain
from kvmtest.host.changes.clear_warn_once import clear_warn_once
from kvmtest.host.changes.freeze_knob import write_knob
from kvmtest.host.changes.journal import Journal, JournalError
from kvmtest.host.changes.kprobes import ProbePool
from kvmtest.host.changes.kvm_events import ENTRY, EVENTS, EXIT, KvmEvents
from kvmtest.host.facts.freeze_knob import Knob
from kvmtest.host.facts.msr import IA32_DEBUGCTL, freeze_bit
from kvmtest.host.facts.taint import read_taint
from kvmtest.host.facts.tracefs import TRACING, why_no_tracepoints
from kvmtest.host.facts.vmm import Vmm
from kvmtest.host.machine import Machine
from kvmtest.host.observe.kernel_log import KernelLog
from kvmtest.host.observe.trace import Hit, Passed
from kvmtest.interleave.foreign import TracedVcpus
from kvmtest.interleave.tracer import Tracer
from kvmtest.judge import Absence, Judgement, Reading, Role, Verdict, claim, control, judge, skip
from kvmtest.missing import Missing

__all__ = ["Figures", "WatchOptions", "Watched", "entry_after", "watch"]

#: What toggles need, and what shows a vCPU's next entry, as preconditions.
TOGGLES, ENTRIES = ("knob", "freeze-bit"), ("run-flags", "kprobes")
#: How long events are recorded before they are read: the trace holds those of a busy vCPU. The
#: timer's ticks make one that does not sleep enter several times.
SLICE_S = 0.05
#: How long entries are recorded before a toggle.
BEFORE_S = 0.01
#: Upper bound on the search for a vCPU thread that debugfs does not name.
SEARCH_S = 1.0
# Followed where there is no task to follow: without any, the trace would have all tasks' events.
_NO_TASK = 1 << 22


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch the process ``pid``.

    ``seconds``: how long each rate is measured. Without ``stops``, no thread of the VMM is stopped:
    toggles come while vCPUs run.
    """

    pid: int
    toggles: int = 10
    seconds: float = 1.0
    stops: bool = True
    allow_other_vms: bool = False


@dataclass(slots=True)
class Figures:
    """What was seen of one vCPU; None for what could not be looked at.

    Rates are per second; those of entries and exits may be higher where events were ``lost``.
    ``exits`` counts VM-exits by reason. ``entered`` counts the toggles after which the vCPU
    entered, ``saw`` those of them that its next entry was told of as it should.
    """

    vcpu: int
    thread: int | None = None
    runs: float | None = None
    entry_rate: float | None = None
    exit_rate: float | None = None
    lost: bool = False
    exits: Counter[str] = field(default_factory=Counter)
    entered: int = 0
    saw: int = 0


@dataclass(frozen=True, slots=True)
class Watched:
    """What became of a watch. ``toggles`` were made, ``missing`` kept it from seeing more."""

    vmm: Vmm
    vcpus: Sequence[Figures]
    toggles: int
    judgement: Judgement
    readings: Sequence[Reading]
    missing: Sequence[Missing]
    recovered: Sequence[str]
    undo_failures: Sequence[str]

    @property
    def exit_status(self) -> int:
        """0 each vCPU saw each toggle, 1 one did not, 3 an error, 4 nothing decided."""
        if self.undo_failures:
            return 3
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.ERROR: 3}.get(self.judgement.verdict, 4)

    def to_dict(self) -> dict[str, Any]:
        """Return this as JSON has it."""
        return {"kvmtest": __version__, **plain(self), "exit_status": self.exit_status}


def watch(
    machine: Machine,
    options: WatchOptions,
    say: Callable[[str], None] = lambda _: None,
    is_over: Callable[[], bool] = lambda: False,
) -> Watched:
    """Watch a VMM, and return what was seen.

    ``say`` is called with each step. The watch ends early, with everything put back, where
    ``is_over`` returns True. Raises UsageError for a process without vCPUs, EnvironmentUnfit where
    another run holds the machine or the process may not be traced.
    """
    vmm = Vmm.of(machine.tree, options.pid)
    journal = Journal.open(machine.tree)
    watching = _Watch(machine, options, vmm, journal, say, is_over)
    try:
        judgement = watching.run()
    finally:
        failures = journal.close()
    return Watched(
        vmm,
        list(watching.figures.values()),
        watching.toggles,
        judgement,
        watching.readings,
        watching.missing,
        journal.recovered,
        failures,
    )


def entry_after(
    hits: Sequence[Hit], began_us: int, ended_us: int, is_flagged: Callable[[int], bool]
) -> tuple[bool, bool]:
    """Tell whether a vCPU entered after a toggle, and whether its next entry was told to load.

    ``hits`` are the vCPU's entries by time. An entry during the toggle may come before the vCPU's
    CPU has the new bit, or after: either that entry or the first later one is told.
    """
    flagged = False
    for hit in hits:
        if hit.time_us < began_us:
            continue
        flagged |= is_flagged(hit.values["flags"])
        if hit.time_us > ended_us:
            return True, flagged
    return flagged, flagged


class _Watch:
    """A watch that goes on."""

    def __init__(
        self,
        machine: Machine,
        options: WatchOptions,
        vmm: Vmm,
        journal: Journal,
        say: Callable[[str], None],
        is_over: Callable[[], bool],
    ) -> None:
        self.readings: list[Reading] = []
        self.missing: list[Missing] = []
        self.toggles = 0
        self.figures = {fd: Figures(number) for fd, number in sorted(vmm.vcpus.items())}
        self._machine, self._options, self._vmm, self._journal = machine, options, vmm, journal
        self._say, self._is_over = say, is_over
        self._stack = ExitStack()
        self._traced: TracedVcpus | None = None
        self._events: KvmEvents | None = None
        self._runflags: RunFlagsWitness | None = None
        #: By thread, the knob's value that its vCPU's last entry is known to have had.
        self._seen: dict[int, int] = {}

    def run(self) -> Judgement:
        """Watch; return the verdict."""
        lacks = self._lacks(TOGGLES) if self._options.toggles else []
        if self._options.toggles and not lacks and not self._options.allow_other_vms:
            self._stop_for_other_vms()
        with self._stack:
            log = self._log()
            # A stand-in's process IDs are those of others on this machine.
            if self._options.stops and self._machine.tree.is_live:
                self._trace()
            self._open_events()
            threads = self._find_threads()
            if self._options.toggles and threads and not lacks:
                self._open_runflags(list(threads.values()), log)
            self._rates(threads)
            knob = self._machine.knob
            if threads and not lacks and isinstance(knob, Knob):
                self._toggle_all(knob, threads)
            return self._judged(log)

    def _lacks(self, names: Sequence[str]) -> list[Missing]:
        found = [missing for name in names if (missing := answer(self._machine, name))]
        self._lack(*found)
        return found

    def _lack(self, *missing: Missing) -> None:
        self.missing += [each for each in missing if each not in self.missing]

    def _stop_for_other_vms(self) -> None:
        census = self._machine.census
        others = [user for user in census.processes if user.vms and user.pid != self._vmm.pid]
        if others:
            named = ", ".join(map(str, others))
            advice = "stop them, use --allow-other-vms, or watch with --toggles 0"
            raise EnvironmentUnfit(f"other VMs run here: {named}; {advice}")

    def _log(self) -> RunLog | Missing:
        log = KernelLog.open(self._machine.tree)
        if isinstance(log, Missing):
            self._lack(log)
            return log
        self._stack.callback(log.close)
        before = clear_warn_once(self._machine.tree, self._journal)
        return RunLog(log, log.write_marker(), before)

    def _trace(self) -> None:
        self._traced = TracedVcpus(self._stack.enter_context(Tracer()), self._vmm)

    def _find_threads(self) -> Mapping[int, int]:
        """Return the vCPU threads by descriptors."""
        self._say("looking for the vCPU threads")
        found: Mapping[int, int] = self._vmm.threads(self._machine.tree)
        if self._traced:
            self._traced.seize(found, SEARCH_S)
            found = self._traced.threads
        elif self._events and found.keys() != self.figures.keys():
            seen, _ = self._sample(self._events, SEARCH_S)
            entered = {each.vcpu: each.pid for each in seen if each.vcpu is not None}
            found = {**self._vmm.by_descriptor(entered), **found}
        for fd, tid in found.items():
            self.figures[fd].thread = tid
        unknown = [str(each.vcpu) for each in self.figures.values() if each.thread is None]
        if unknown:
            what = f"no thread was seen to run vCPU {', '.join(unknown)}"
            stopping = "" if self._traced else ", or watch without --no-stop"
            self._lack(Missing(what, f"mount -t debugfs nodev /sys/kernel/debug{stopping}"))
        if self._events:
            self._events.follow(found.values() or [_NO_TASK])
        return found

    def _open_events(self) -> None:
        """Open what sees entries and exits, of any thread of the VMM for now."""
        tree, journal, tasks = self._machine.tree, self._journal, self._vmm.tids(self._machine.tree)
        if tree.exists(f"{TRACING}/events/kvm/{ENTRY}"):
            try:
                self._events = self._stack.enter_context(KvmEvents(tree, journal, tasks))
            except JournalError as error:
                self._lack(Missing(str(error), "run as root on the host, without lockdown"))
        elif tree.exists(f"{TRACING}/events"):
            self._lack(Missing("this kernel has no tracepoint kvm:kvm_entry"))
        else:
            self._lack(why_no_tracepoints(tree))

    def _open_runflags(self, tasks: list[int], log: RunLog | Missing) -> None:
        """Open what sees the run flags at these threads' entries."""
        if self._lacks(ENTRIES):
            return
        tree, journal = self._machine.tree, self._journal
        pool = ProbePool(tree, journal)
        self._stack.callback(pool.close)
        context = Context(self._machine, journal, log, pool)
        opened = RunFlagsWitness.open(context, self._stack)
        if isinstance(opened, Missing):
            self._lack(opened)
            return
        opened.record(on=False)
        opened.follow(tasks)
        self._runflags = opened

    def _rates(self, threads: Mapping[int, int]) -> None:
        """Measure rates: first without any stop, then with a stop at each system call."""
        self._say("measuring rates")
        if self._events:
            self._add_rates(*self._sample(self._events, self._options.seconds), threads)
            for figures in self.figures.values():
                figures.lost = self._events.lost
        if self._traced and threads and not self._is_over():
            began = time.monotonic()
            with self._traced.counting() as runs:
                self._let_run(self._options.seconds)
                took = time.monotonic() - began
            for fd, count in runs.items():
                self.figures[fd].runs = count / took

    def _add_rates(
        self, passed: Sequence[Passed], seconds: float, threads: Mapping[int, int]
    ) -> None:
        for fd, tid in threads.items():
            counts = Counter(each.event for each in passed if each.pid == tid)
            figures = self.figures[fd]
            figures.entry_rate, figures.exit_rate = (counts[name] / seconds for name in EVENTS)
            figures.exits = Counter(
                reason
                for each in passed
                if each.pid == tid and each.event == EXIT
                if (reason := each.exit_reason)
            )

    def _sample(self, events: KvmEvents, seconds: float) -> tuple[list[Passed], float]:
        """Return the events of slices of so many seconds in all, and how long these took."""
        passed: list[Passed] = []
        recorded = 0.0
        while recorded < seconds and not self._is_over():
            events.record(on=True)
            began = time.monotonic()
            self._let_run(min(SLICE_S, seconds))
            recorded += time.monotonic() - began
            events.record(on=False)
            passed += events.read()
        return passed, recorded

    def _let_run(self, seconds: float) -> None:
        """Let the VMM run for so long, unless the watch is over before."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._is_over():
            turn = min(left, SLICE_S)
            if self._traced:
                self._traced.serve(turn)
            else:
                time.sleep(turn)

    def _toggle_all(self, knob: Knob, threads: Mapping[int, int]) -> None:
        for number in range(1, self._options.toggles + 1):
            if self._is_over():
                return
            self._say(f"toggle {number} of {self._options.toggles}")
            self._toggle(knob, 1 - knob.value(), threads)

    def _toggle(self, knob: Knob, value: int, threads: Mapping[int, int]) -> None:
        """Toggle the knob, and claim of each vCPU that its next entry was told."""
        if self._runflags:
            self._runflags.record(on=True)
        self._let_run(BEFORE_S)
        with ExitStack() as pause:
            if self._traced:
                pause.enter_context(self._traced.paused())
            began_us = time.monotonic_ns() // 1000
            write_knob(self._journal, knob, value)
            ended_us = time.monotonic_ns() // 1000 + 1
            self.toggles += 1
            self._show_msrs(value)
        self._let_run(SLICE_S)
        if self._runflags:
            self._runflags.record(on=False)
        hits = self._hits()
        for fd, tid in threads.items():
            mine = [hit for hit in hits if hit.pid == tid]
            self._look(fd, tid, mine, (began_us, ended_us), value)

    def _hits(self) -> list[Hit]:
        if not self._runflags:
            return []
        found = self._runflags.collect()
        self._runflags.account(found)
        return list(found.hits)

    def _look(
        self, fd: int, tid: int, hits: Sequence[Hit], toggle: tuple[int, int], value: int
    ) -> None:
        """Claim that a vCPU's next entry was told, if the vCPU entered and its old bit is known."""
        if not self._runflags:
            return
        began_us, ended_us = toggle
        if any(hit.time_us < began_us for hit in hits):
            self._seen[tid] = 1 - value
        entered, flagged = entry_after(hits, began_us, ended_us, self._runflags.is_flagged)
        known = self._seen.pop(tid, None)
        if not entered:
            return  # It may enter while nothing is recorded.
        self._seen[tid] = value
        if known is None:
            return
        expected, figures = int(known != value), self.figures[fd]
        what = (
            f"KVM_RUN_LOAD_DEBUGCTL at the next entry of vCPU {figures.vcpu} after freeze_on_smi "
            f"went to {value}"
        )
        self.readings.append(claim("runflags", what, int(flagged), expected, entries=len(hits)))
        figures.entered += 1
        figures.saw += int(flagged) == expected

    def _show_msrs(self, value: int) -> None:
        """Show that the knob reached every CPU."""
        msr = self._machine.msr
        if isinstance(msr, Missing):
            return  # A precondition has excluded this.
        bits = {cpu: freeze_bit(msr.read(IA32_DEBUGCTL, cpu)) for cpu in msr.cpus}
        observed = value if set(bits.values()) == {value} else str(bits)
        remedy = "run where the knob reaches the MSR (see host.knob-effective)"
        what = f"the host's bit 14 on every CPU with freeze_on_smi={value}"
        self.readings.append(control("runflags", what, observed, value, remedy))

    def _judged(self, log: RunLog | Missing) -> Judgement:
        """Judge the entries. Trouble in the kernel log is a FAIL too; a silent log adds nothing."""
        if self._runflags:
            self.readings += _readings(self._runflags.probe_controls())
        of_log: list[Reading] = []
        if isinstance(log, RunLog):
            tree = self._machine.tree
            of_log = list(log_readings(log, log.log.since_marker(), read_taint(tree)))
        entries, self.readings = self.readings, [*self.readings, *of_log]
        is_claimed = any(each.role is Role.CLAIM for each in entries)
        judgement = judge(entries) if is_claimed else self._undecided()
        by_log = judge(of_log) if of_log else None
        if by_log and by_log.verdict is Verdict.FAIL and judgement.verdict is not Verdict.FAIL:
            return by_log
        if by_log and by_log.verdict is Verdict.INCONCLUSIVE:
            self._lack(Missing(by_log.reason))
        return judgement

    def _undecided(self) -> Judgement:
        if self.missing and self._options.toggles:
            return skip(map(str, self.missing))
        why = "no vCPU entered the guest after a toggle" if self.toggles else "nothing was toggled"
        return Judgement(Verdict.INCONCLUSIVE, f"{why}; watch while the guest works")


def _readings(observed: Observations) -> Iterator[Reading]:
    return (each for each in observed if not isinstance(each, Absence))
