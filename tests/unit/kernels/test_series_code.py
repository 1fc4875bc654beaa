"""kvmtest/kernels/series_code.py: each place that the series changes is seen, and its lack is."""

import json
import lzma
import sys
from pathlib import Path

import pytest
from support.kvm_code import INTEL, KVM, OFFSETS, compiled, linked, without

from kvmtest.kernels.series import (
    DR6_FLAG,
    FIX,
    HELPER,
    QUIRK,
    RTM_DEBUG,
    RUN_FLAGS,
    SERIES,
    TDX,
    VMCS12_CHECK,
    WRAPPERS,
    Commit,
    Evidence,
    Finding,
    State,
    finding_of,
)
from kvmtest.kernels.series_code import Offsets, from_code

RUN = "if ((debug_ctl ^ vcpu->host_debugctl) & kvm_x86_ops.HOST_OWNED_DEBUGCTL)"
RELOAD = "if (run_flags & 4)\n\t\tvmx_reload_guest_debugctl(vcpu);"


# Cut out of Debian's kernels by tools/kvm_extract.py.
RECORDED = Path(__file__).parents[2] / "recorded" / "kvm-code"
SINCE_6_1 = set(SERIES) - {TDX, QUIRK}


def look(folder: Path, kvm: str = KVM, intel: str = INTEL, *options: str) -> tuple[Finding, ...]:
    return from_code(compiled(kvm, folder, *options), compiled(intel, folder, *options), OFFSETS)


def states(findings: tuple[Finding, ...]) -> dict[Commit, State]:
    return {finding.commit: finding.state for finding in findings}


ALL = dict.fromkeys(SERIES, State.PRESENT)


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ("5.10.262", set()),
        ("6.1.187", SINCE_6_1),
        ("6.12.74", SINCE_6_1),
        ("6.12.90", SINCE_6_1 | {QUIRK}),
        ("6.18.15", SINCE_6_1),
        ("7.3.4", SINCE_6_1 | {QUIRK}),
    ],
)
def test_debian_s_kernels_have_what_their_changelogs_say(version: str, has: set[Commit]) -> None:
    folder = RECORDED / version
    kvm, intel = (
        lzma.decompress((folder / f"{name}.ko.xz").read_bytes()) for name in ("kvm", "kvm-intel")
    )
    offsets = Offsets(**json.loads((folder / "kernel.json").read_text())["offsets"])
    found = states(from_code(kvm, intel, offsets))
    assert {commit for commit, state in found.items() if state is State.PRESENT} == has
    # That all accesses were wrapped does not show without the fix.
    open_ones = {commit for commit, state in found.items() if state is State.UNKNOWN}
    assert open_ones == (set() if WRAPPERS in has else {WRAPPERS})


@pytest.mark.parametrize("options", [(), ("-Os",), ("-O3",), ("-mindirect-branch=thunk-extern",)])
def test_code_of_the_series_shows_all_its_commits(tmp_path: Path, options: tuple[str, ...]) -> None:
    found = look(tmp_path, KVM, INTEL, *options)
    assert states(found) == ALL
    assert finding_of(FIX, found).evidence == (Evidence.CODE,)


def test_inline_functions_may_be_functions(tmp_path: Path) -> None:
    assert states(look(tmp_path, KVM, INTEL.replace("static inline", "static"), "-O1")) == ALL
    outlined = INTEL.replace("static inline void vmx", "static __attribute__((noipa)) void vmx")
    assert states(look(tmp_path, KVM, outlined)) == ALL


def test_a_vmlinux_is_kvm_and_kvm_intel(tmp_path: Path) -> None:
    objects = [compiled(KVM, tmp_path), compiled(INTEL, tmp_path)]
    assert states(from_code(linked(objects, tmp_path), None, OFFSETS)) == ALL


@pytest.mark.parametrize(
    ("line", "instead", "commit", "words"),
    [
        (RUN, "if (0)", FIX, "vcpu_enter_guest does not compare DEBUGCTL"),
        ("run_flags |= 4;", "run_flags |= 8;", FIX, "vcpu_enter_guest does not raise the run flag"),
        ("vcpu->host_debugctl = debug_ctl;", "", FIX, "vcpu_enter_guest does not store"),
        ("= 0x7ff;", "= 0x3ff;", QUIRK, "kvm does not offer quirk 1 << 10"),
    ],
)
def test_a_line_of_kvm_that_is_missing_is_named(
    tmp_path: Path, line: str, instead: str, commit: Commit, words: str
) -> None:
    found = look(tmp_path, without(KVM, line, instead))
    assert states(found) == ALL | {commit: State.ABSENT}
    assert words in finding_of(commit, found).observation


@pytest.mark.parametrize(
    ("line", "instead", "commit", "words"),
    [
        (".HOST_OWNED_DEBUGCTL = BIT14", "", FIX, "vmx_x86_ops.HOST_OWNED_DEBUGCTL is 0x0"),
        (RELOAD, "", FIX, "vmx_vcpu_run does not test bit 2 of its run flags"),
        (RELOAD, "if (run_flags & 4) enter(vcpu);", FIX, "vmx_vcpu_run does not reload the VMCS"),
        ("if (run_flags & 2)", "if (0)", DR6_FLAG, "does not test bit 1"),
        ("if (run_flags & 1)", "if (0)", RUN_FLAGS, "does not test bit 0"),
        (
            "if (failed)\n\t\tvmx_reload_guest_debugctl(vcpu);",
            "if (failed) return;",
            FIX,
            "nested_vmx_restore_host_state does not reload the VMCS",
        ),
        ("debugctl |= 1ul << 15;", "debugctl |= 1ul << 11;", RTM_DEBUG, "does not allow bit 15"),
        (
            "vmx_guest_debugctl_write(vcpu, debugctl & vmx_get_supported_debugctl(vcpu));",
            "vmx_guest_debugctl_write(vcpu, debugctl);",
            VMCS12_CHECK,
            "prepare_vmcs02 does not mask the DEBUGCTL in vmcs12",
        ),
        (
            "return !vmx_is_valid_debugctl(vcpu, debugctl);",
            "return debugctl == 5;",
            VMCS12_CHECK,
            "nested_vmx_check_guest_state does not check the DEBUGCTL in vmcs12",
        ),
        (
            "if (vcpu->host_debugctl & ~0x5002ul)\n\t\tput_back(vcpu->host_debugctl);",
            "put_back(vcpu->kept);",
            TDX,
            "tdx_vcpu_run does not put",
        ),
        ("(1 << 10)", "(1 << 9)", QUIRK, "does not ask for quirk 1 << 10"),
    ],
)
def test_a_line_of_kvm_intel_that_is_missing_is_named(
    tmp_path: Path, line: str, instead: str, commit: Commit, words: str
) -> None:
    found = look(tmp_path, KVM, without(INTEL, line, instead))
    assert states(found) == ALL | {commit: State.ABSENT}
    assert words in finding_of(commit, found).observation


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        (
            "\tvmx_guest_debugctl_write(vcpu, data);",
            "vmcs_write64(0x2802, data);",
            "vmx_set_msr writes GUEST_IA32_DEBUGCTL without the host's bit 14",
        ),
        (
            "vmx_guest_debugctl_write(vcpu, val & ~BIT14);",
            "vmx_guest_debugctl_write(vcpu, val);",
            "vmx_vcpu_run writes GUEST_IA32_DEBUGCTL with its old bit 14",
        ),
        (
            "val |= vcpu->host_debugctl & BIT14;",
            "val |= vcpu->host_debugctl & (BIT14 | 1);",
            "with other bits of the host's than bit 14",
        ),
        (
            "return vmcs_read64(0x2802) & ~BIT14;",
            "return vmcs_read64(0x2802);",
            "vmx_get_msr keeps bit 14 of GUEST_IA32_DEBUGCTL",
        ),
    ],
)
def test_an_access_that_leaves_bit_14_as_it_was_is_named(
    tmp_path: Path, line: str, instead: str, words: str
) -> None:
    found = look(tmp_path, KVM, without(INTEL, line, instead))
    assert words in finding_of(FIX, found).observation
    assert states(found) == ALL | {FIX: State.ABSENT, WRAPPERS: State.UNKNOWN}


def test_without_the_helper_there_is_none(tmp_path: Path) -> None:
    found = look(tmp_path, KVM, INTEL.replace("vmx_is_valid_debugctl", "other"))
    assert finding_of(HELPER, found).state is State.ABSENT


def test_a_kernel_without_tdx_needs_no_commit_on_tdx(tmp_path: Path) -> None:
    found = look(tmp_path, KVM, INTEL.replace("tdx_vcpu_run", "other"))
    assert finding_of(TDX, found).unneeded == "it has no TDX"


def test_without_types_nothing_is_looked_for(tmp_path: Path) -> None:
    found = from_code(b"", None, None)
    assert "types (BTF)" in finding_of(FIX, found).observation


def test_without_capstone_the_reason_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "capstone", None)
    found = look(tmp_path)
    assert {each.state for each in found} == {State.UNKNOWN}
    assert "'kvmtest[inspect]'" in finding_of(FIX, found).observation


def test_a_file_without_vmx_vcpu_run_is_unknown(tmp_path: Path) -> None:
    found = from_code(compiled(KVM, tmp_path), None, Offsets())
    assert "no symbol vmx_vcpu_run" in finding_of(FIX, found).observation


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF" + bytes(200)])
def test_a_damaged_file_is_unknown(data: bytes) -> None:
    assert {each.state for each in from_code(data, None, OFFSETS)} == {State.UNKNOWN}
