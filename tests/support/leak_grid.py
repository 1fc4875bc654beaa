"""The grid of simulated machines on which the leak experiment's judge is tried."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from kvmtest.checks.leaks.smis import SMIS_PER_WINDOW
from kvmtest.checks.leaks.walk import LENGTH
from kvmtest.judge import Verdict, judge
from kvmtest.judge.leak import conclude
from support.simulated_machine import Machine

#: Trials that a seed of its own begins: the unit of work, and what a test runs again.
CHUNK = 100

LAB = Machine(handler=11)
HOST = Machine(handler=1e5, kind="gaussian", noise=500)

MACHINES = {
    "the lab: exact counts, 11 per SMI": LAB,
    "exact, 10 per SMI, 2 SMIs a window": dataclasses.replace(LAB, handler=10, smis=2),
    "100 per SMI, noise 1": Machine(handler=100, kind="gaussian", noise=1),
    "10^3 per SMI, noise 5": Machine(handler=1e3, kind="gaussian", noise=5),
    "10^3 per SMI, heavy tails of 3": Machine(handler=1e3, kind="heavy", noise=3),
    "10^5 per SMI, noise 500": HOST,
    "10^5 per SMI, heavy tails of 300": dataclasses.replace(HOST, kind="heavy", noise=300),
    "10^5 per SMI, heavy tails of 3000": dataclasses.replace(HOST, kind="heavy", noise=3000),
    "10^5 per SMI, noise 300 with spikes": dataclasses.replace(HOST, kind="spiked", noise=300),
    "10^5 per SMI, noise 3": dataclasses.replace(HOST, noise=3),
    "10^6 per SMI, noise 5000": dataclasses.replace(HOST, handler=1e6, noise=5000),
    "noise 5000": dataclasses.replace(HOST, noise=5000),
    "4 blocks": dataclasses.replace(HOST, blocks=4),
    "24 blocks, noise 1000": dataclasses.replace(HOST, blocks=24, noise=1000),
    "0.7 SMIs a window, 20 blocks": dataclasses.replace(HOST, smis=0.7, blocks=20),
    "50 SMIs a window, noise 5000": dataclasses.replace(HOST, smis=50, noise=5000),
    "70 % of 10 SMIs in host mode": dataclasses.replace(HOST, smis=10, in_host=0.7),
    "95 % of 50 SMIs in host mode": dataclasses.replace(HOST, smis=50, in_host=0.95),
    "drift": dataclasses.replace(HOST, drift=0.3),
    "strong drift": dataclasses.replace(HOST, drift=2),
    "drift, heavy tails of 300": dataclasses.replace(HOST, drift=0.3, kind="heavy", noise=300),
    "5 % of the gaps not seen": dataclasses.replace(HOST, lost=0.05),
    "30 % of the gaps not seen": dataclasses.replace(HOST, lost=0.3),
    "handlers vary by 30 %": dataclasses.replace(HOST, variation=0.3),
    "handlers vary by 100 %, 24 blocks": dataclasses.replace(HOST, variation=1, blocks=24),
    "200 VM-exits a window": dataclasses.replace(HOST, exits=200),
    "cycles": dataclasses.replace(HOST, counter="cycles:k"),
    "cycles, drift": dataclasses.replace(HOST, counter="cycles:k", drift=0.3),
    "cycles, 60 % of the gaps recorded": dataclasses.replace(
        HOST, counter="cycles:k", recorded=0.6, blocks=20
    ),
    "the lab, 16 windows toggled amid": dataclasses.replace(LAB, exits=1, toggled=16),
    "16 windows toggled amid, heavy tails of 300": dataclasses.replace(
        HOST, exits=1, toggled=16, kind="heavy", noise=300
    ),
    "16 windows toggled amid, handlers vary by 100 %, 24 blocks": dataclasses.replace(
        HOST, toggled=16, variation=1, blocks=24
    ),
    "nothing is counted in SMM, knob off or on": dataclasses.replace(HOST, control=0),
    "no SMIs": dataclasses.replace(HOST, smis=0),
}

UNNOTICED = "toggles amid a window go unnoticed"

#: What a step of the leak walk is judged by.
WALK = {"walk": True, "smis": LENGTH * SMIS_PER_WINDOW}
MACHINES |= {
    f"a walk, {name}": dataclasses.replace(MACHINES[name], **WALK)
    for name in (
        "the lab: exact counts, 11 per SMI",
        "10^5 per SMI, noise 500",
        "10^5 per SMI, heavy tails of 3000",
        "handlers vary by 30 %",
    )
}

#: Where each window has one SMI, which is asked for.
BY_ONES = dataclasses.replace(HOST, by_ones=True)
MACHINES |= {
    f"by ones, {name}": dataclasses.replace(BY_ONES, **changed)
    for name, changed in {
        "the lab: exact counts, 11 per SMI": {"handler": 11, "kind": "exact", "noise": 0},
        "10^5 per SMI, noise 3": {"noise": 3},
        "10^5 per SMI, noise 200": {"noise": 200},
        "10^5 per SMI, noise 500": {},
        "10^5 per SMI, heavy tails of 300": {"kind": "heavy", "noise": 300},
        "30 % of the SMIs in host mode": {"noise": 200, "in_host": 0.3},
        "5 % of the gaps not seen, drift": {"noise": 200, "lost": 0.05, "drift": 0.3},
        "handlers vary by 30 %": {"noise": 200, "variation": 0.3},
        "cycles": {"noise": 200, "counter": "cycles:k"},
    }.items()
}
MACHINES |= {
    "by ones, a walk, 10^5 per SMI, noise 200": dataclasses.replace(BY_ONES, noise=200, walk=True),
    "waited for, 0.7 SMIs and 200 VM-exits a window": dataclasses.replace(
        HOST, smis=0.7, noise=200, exits=200, waited=True
    ),
}

TRUTHS = {
    "no leak": {},
    "2 % leak": {"leak": 0.02},
    "10 % leak": {"leak": 0.1},
    "all leaks": {"leak": 1.0},
    "one lost update": {"lost_updates": 1},
    "five lost updates": {"lost_updates": 5},
    UNNOTICED: {"goes_on": True},
    "frozen with the knob off": {"frozen": 1.0},
}
# These are easily told on any machine, so that two are enough.
EASY = ("10 % leak", "all leaks", "five lost updates")


@dataclass(frozen=True, slots=True)
class Point:
    """A machine and what is true of its kernel."""

    name: str
    truth: str
    machine: Machine

    @property
    def error(self) -> Verdict:
        """The verdict that is false here."""
        return Verdict.FAIL if self.truth == "no leak" else Verdict.PASS

    def chunk(self, number: int) -> tuple[Counter[Verdict], list[int]]:
        """Judge CHUNK experiments: how many there are of each verdict, and the SMIs of each."""
        random = Random(f"{self.name}, {self.truth}, {number}")
        verdicts: Counter[Verdict] = Counter()
        smis = []
        for _ in range(CHUNK):
            for samples in self.machine.looks(random):
                verdict = judge(conclude(samples)).verdict
                if verdict in (Verdict.PASS, Verdict.FAIL):
                    break
            verdicts[verdict] += 1
            smis.append(sum(window.smis for window in samples.windows))
        return verdicts, smis


def points() -> Iterator[Point]:
    """Yield the grid."""
    for name, machine in MACHINES.items():
        for truth, fields in TRUTHS.items():
            if is_there(machine, truth):
                yield Point(name, truth, dataclasses.replace(machine, **fields))


def is_there(machine: Machine, truth: str) -> bool:
    """Whether the truth can show on the machine."""
    if not machine.control or not machine.smis:
        return truth == "no leak"  # Nothing is counted in SMM, or there is none.
    if machine.toggled:  # Of other truths the windows of the arms tell, here as elsewhere.
        return truth == "no leak" or (truth == UNNOTICED and machine.exits == 1)
    if truth == UNNOTICED:
        return False
    if machine.walk or truth == "frozen with the knob off":
        # With the knob on windows of a walk are judged as any others.
        return machine.walk and truth in ("no leak", "frozen with the knob off")
    if truth in EASY:
        return machine in (LAB, HOST)
    if truth == "2 % leak":
        return machine.handler >= 100  # A handler leaks whole instructions.
    # A short lost update may be less than a hundredth of all that the control counts.
    return truth != "one lost update" or machine.variation < 1
