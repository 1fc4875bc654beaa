"""The series that fixed FREEZE_IN_SMM
======================================

The eight commits of Linux v6.17 and the quirk that followed in v7.0, which stable releases have
them, and what was found of each in one kernel. Pure data and pure functions over what was found;
who looks is :mod:`kvmtest.kernels.series_types`, :mod:`kvmtest.kernels.series_code` and
:mod:`kvmtest.kernels.series_source`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

__all__ = [
    "DR6_FLAG",
    "FIX",
    "HELPER",
    "QUIRK",
    "RTM_DEBUG",
    "RUN_FLAGS",
    "SERIES",
    "TDX",
    "VMCS12_CHECK",
    "WRAPPERS",
    "Commit",
    "Evidence",
    "Finding",
    "State",
    "advice",
    "finding_of",
    "merged",
    "unknown",
    "without_tdx",
]

Version = tuple[int, int, int]
"""An upstream version such as (6, 12, 117)."""


class State(StrEnum):
    """Whether a kernel has a commit."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class Evidence(StrEnum):
    """What was looked at. A reader is told: types prove source, machine code what runs."""

    TYPES = "types"
    CODE = "machine code"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the mainline."""

    id: str
    """Twelve hexadecimal digits."""

    subject: str
    in_version: str
    """The first release of the mainline that has it, such as v6.17."""

    what: str
    """What it brings, in a few words."""

    stable: Mapping[tuple[int, int], int] = field(default_factory=dict, compare=False)
    """The first release of each stable series that has it: ``(6, 12): 43`` is 6.12.43."""

    @property
    def mainline(self) -> tuple[int, int]:
        """The mainline's release in numbers."""
        major, minor = self.in_version.removeprefix("v").split(".")
        return int(major), int(minor)

    def first_in(self, series: tuple[int, int]) -> int | None:
        """Return the first release of a stable series that has it, 0 for the mainline's own."""
        return 0 if self.mainline <= series else self.stable.get(series)


# The releases are those of the announcements and ChangeLogs of 6.1.149, 6.6.103, 6.12.43, 6.12.78,
# 6.16.1, 6.16.2 and 6.19.9, and of the review of 6.18.19.
_EARLY = {(6, 1): 149, (6, 6): 103, (6, 12): 43, (6, 16): 1}
_LATE = _EARLY | {(6, 16): 2}

SERIES: tuple[Commit, ...] = (
    Commit(
        "7d390a9da823",
        "KVM: TDX: Use kvm_arch_vcpu.host_debugctl to restore the host's DEBUGCTL",
        "v6.17",
        "TDs use the vCPU's copy of the host's DEBUGCTL",
    ),
    Commit(
        "2478b1b220c4",
        "KVM: x86: Convert vcpu_run()'s immediate exit param into a generic bitmap",
        "v6.17",
        "run flags",
        _EARLY,
    ),
    Commit(
        "80c64c7afea1",
        "KVM: x86: Drop kvm_x86_ops.set_dr6() in favor of a new KVM_RUN flag",
        "v6.17",
        "DR6 is loaded by a run flag",
        _EARLY,
    ),
    Commit(
        "17ec2f965344",
        "KVM: VMX: Allow guest to set DEBUGCTL.RTM_DEBUG if RTM is supported",
        "v6.17",
        "guests with RTM may set bit 15",
        _EARLY,
    ),
    Commit(
        "8a4351ac302c",
        "KVM: VMX: Extract checking of guest's DEBUGCTL into helper",
        "v6.17",
        "vmx_is_valid_debugctl",
        _LATE,
    ),
    Commit(
        "095686e6fcb4",
        "KVM: nVMX: Check vmcs12->guest_ia32_debugctl on nested VM-Enter",
        "v6.17",
        "an entry to L2 checks the DEBUGCTL in vmcs12",
        _LATE,
    ),
    Commit(
        "7d0cce6cbe71",
        "KVM: VMX: Wrap all accesses to IA32_DEBUGCTL with getter/setter APIs",
        "v6.17",
        "one getter and setter of GUEST_IA32_DEBUGCTL",
        _LATE,
    ),
    Commit(
        "6b1dd26544d0",
        "KVM: VMX: Preserve host's DEBUGCTLMSR_FREEZE_IN_SMM while running the guest",
        "v6.17",
        "the fix: guests run with the host's bit 14",
        _LATE,
    ),
    Commit(
        "e2ffe85b6d2b",
        "KVM: x86: Introduce KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM",
        "v7.0",
        "the quirk: an L1 may have bit 14 in vmcs12",
        {(6, 12): 78, (6, 18): 19, (6, 19): 9},
    ),
)
"""The commits in the order of the mainline."""

TDX, RUN_FLAGS, DR6_FLAG, RTM_DEBUG, HELPER, VMCS12_CHECK, WRAPPERS, FIX, QUIRK = SERIES


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one commit in one kernel."""

    commit: Commit
    state: State
    evidence: tuple[Evidence, ...] = ()
    """What decided; empty where nothing did."""

    observation: str = ""
    """What was seen, in words, or why nothing could be."""

    unneeded: str = ""
    """Why this kernel needs no such commit, where it lacks it: "it has no TDX"."""

    @property
    def is_missing(self) -> bool:
        """Tell whether this kernel lacks the commit and needs it."""
        return self.state is State.ABSENT and not self.unneeded


def unknown(reason: str = "") -> tuple[Finding, ...]:
    """Return findings that decide nothing, for ``reason``."""
    return tuple(Finding(commit, State.UNKNOWN, (), reason) for commit in SERIES)


def without_tdx(evidence: Evidence, observation: str) -> Finding:
    """Return the finding on a kernel that lacks the commit on TDX, as it has no TDX."""
    return Finding(TDX, State.ABSENT, (evidence,), observation, "it has no TDX")


def finding_of(commit: Commit, findings: Iterable[Finding]) -> Finding:
    """Return the finding on one commit; one that decides nothing where there is none."""
    found = (finding for finding in findings if finding.commit == commit)
    return next(found, Finding(commit, State.UNKNOWN))


def merged(*looks: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return one finding for each commit out of several looks at the same kernel.

    A commit is there only where no look denies it: types may be of a source whose code was taken
    back. Afterwards what one commit says of another is added: the check of vmcs12 is what the quirk
    mends.
    """
    found = tuple(
        _merged(commit, [finding_of(commit, look) for look in looks]) for commit in SERIES
    )
    return tuple(_with_need(finding, found) for finding in found)


def advice(findings: Sequence[Finding], version: Version | None = None) -> str:
    """Return in one sentence what a maintainer of this kernel would backport.

    ``version`` is the upstream one that the kernel is based on; it says which stable release has
    what is missing.
    """
    missing = [finding.commit for finding in findings if finding.is_missing]
    open_ones = [finding.commit for finding in findings if finding.state is State.UNKNOWN]
    if FIX in missing:
        # The fix does not apply without them.
        missing = [commit for commit in SERIES if commit in missing or commit in open_ones]
    if missing:
        return f"Backport {_listed(missing)}{_sources(missing, version)}."
    if finding_of(FIX, findings).state is not State.PRESENT:
        return (
            "Nothing can be advised: it is unknown whether the fix is in; give the kernel's modules"
            " with their types, its source, or run kvmtest on it."
        )
    if open_ones:
        return f"Nothing is known to be missing, but {_listed(open_ones)} could not be seen."
    return "Nothing is missing."


def _merged(commit: Commit, looks: Sequence[Finding]) -> Finding:
    states = {each.state for each in looks}
    state = next((s for s in (State.ABSENT, State.PRESENT) if s in states), State.UNKNOWN)
    those = [each for each in looks if each.state is state]
    others = [each for each in looks if each.state not in (state, State.UNKNOWN)]
    words = "; ".join(dict.fromkeys(each.observation for each in those if each.observation))
    against = "; ".join(each.observation for each in others)
    return Finding(
        commit,
        state,
        tuple(dict.fromkeys(evidence for each in those for evidence in each.evidence)),
        f"{words}, although {against}" if against else words,
        next((each.unneeded for each in looks if each.unneeded), ""),
    )


def _with_need(finding: Finding, found: Sequence[Finding]) -> Finding:
    """Say of the quirk that a kernel without the check of vmcs12 needs none."""
    if finding.commit != QUIRK or finding.state is not State.ABSENT:
        return finding
    if finding_of(VMCS12_CHECK, found).state is not State.ABSENT:
        return finding
    # Once the check is backported, the quirk has to come with it.
    if finding_of(FIX, found).is_missing:
        return finding
    return replace(finding, unneeded="it does not check the DEBUGCTL in vmcs12")


def _listed(commits: Sequence[Commit]) -> str:
    ids = [commit.id for commit in commits]
    if len(ids) == len(SERIES):
        return f"the whole series, {ids[0]} to {ids[-2]}, and {ids[-1]}"
    return f"{', '.join(ids[:-1])} and {ids[-1]}" if len(ids) > 1 else ids[0]


def _sources(missing: Sequence[Commit], version: Version | None) -> str:
    """Say which release has what is missing: of the kernel's own series, or the mainline's."""
    first = max(commit.mainline for commit in missing)
    mainline = f"mainline v{first[0]}.{first[1]}"
    if version is None:
        return f" (all in {mainline})"
    series = version[:2]
    name = f"{series[0]}.{series[1]}"
    have = {commit: commit.first_in(series) for commit in missing}
    releases = [release for release in have.values() if release is not None]
    lacking = [commit for commit, release in have.items() if release is None]
    if not releases:
        return f": no {name}.y release has {_them(missing)}, {mainline} does"
    where = f"{name}.{max(releases)}" if max(releases) else name
    if lacking:
        return f": {where} has them but {_listed(lacking)}, which {mainline} has"
    return f", or take {where}, which has {_them(missing)}"


def _them(commits: Sequence[Commit]) -> str:
    return "it" if len(commits) == 1 else "them"
