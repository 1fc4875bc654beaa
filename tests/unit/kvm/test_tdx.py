"""kvmtest/kvm/tdx.py, as far as it needs no KVM with TDX."""

import errno

import pytest

from kvmtest.kvm import Cpuid, CpuidEntry, KvmError, Vm, tdx
from kvmtest.kvm.tdx import Capabilities, TdxError

ALL = 0xFFFFFFFF
SIGNIFICANT_INDEX = 1


def entry(function: int, index: int = 0, flags: int = 0, **registers: int) -> CpuidEntry:
    values = dict.fromkeys(("eax", "ebx", "ecx", "edx"), 0) | registers
    return CpuidEntry(function, index, flags, **values)


def configured(*pairs: tuple[CpuidEntry, CpuidEntry | None]) -> Cpuid:
    masks = Cpuid(mask for mask, _ in pairs)
    wanted = Cpuid(value for _, value in pairs if value)
    return Capabilities(0, 0, masks).configure(wanted)


def test_only_configurable_bits_are_asked_for() -> None:
    table = configured((entry(1, ecx=0x6), entry(1, eax=ALL, ecx=0x3)))
    assert table == Cpuid([entry(1, ecx=0x2)])


def test_a_leaf_that_is_not_configurable_is_left_out() -> None:
    wanted = Cpuid([entry(1, eax=1), entry(2, eax=2)])
    assert Capabilities(0, 0, Cpuid([entry(2, eax=ALL)])).configure(wanted) == Cpuid(
        [entry(2, eax=2)]
    )


def test_a_leaf_that_kvm_does_not_support_is_left_out() -> None:
    assert configured((entry(0x24, eax=ALL), None)) == Cpuid()


def test_a_subleaf_keeps_the_flag_that_marks_it() -> None:
    """KVM_TDX_CAPABILITIES gives none, and KVM takes an entry without it for all subleaves."""
    table = configured((entry(4, 2, eax=ALL), entry(4, 2, SIGNIFICANT_INDEX, eax=7)))
    assert table == Cpuid([entry(4, 2, SIGNIFICANT_INDEX, eax=7)])


@pytest.mark.parametrize("supported", [0x00000034, 0x00343034, 0x00302F2E])
def test_guest_physical_addresses_have_48_bits_whatever_the_host_has(supported: int) -> None:
    table = configured((entry(0x80000008, eax=0xFF00FF), entry(0x80000008, eax=supported)))
    assert table == Cpuid([entry(0x80000008, eax=0x300000 | supported & 0xFF)])


def test_an_error_names_sub_command_and_remedy() -> None:
    error = TdxError("KVM_TDX_INIT_VM", errno.EBUSY, "")
    assert str(error) == (
        "KVM_TDX_INIT_VM: Device or resource busy (EBUSY); a vCPU exists: initialise the VM before "
        "its first vCPU"
    )
    assert (error.ioctl, error.errno, error.hw_error) == ("KVM_TDX_INIT_VM", errno.EBUSY, 0)


def test_an_error_of_the_tdx_module_is_told_in_words() -> None:
    error = TdxError("KVM_TDX_INIT_VM", errno.EINVAL, "", 0xC000010000000041)
    assert str(error).endswith(
        "; the TDX module says TDX_OPERAND_INVALID (XFAM); change that operand"
    )
    assert error.hw_error == 0xC000010000000041


class NoEntropy:
    """Answers KVM_TDX_INIT_VM as if random numbers were used up, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def ioctl(self, fd: int, name: str, argument: object) -> int:
        assert name == "KVM_MEMORY_ENCRYPT_OP"
        if self.left:
            self.left -= 1
            raise KvmError(name, errno.EAGAIN)
        return 0


def test_a_cpu_that_is_out_of_entropy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = NoEntropy(3)
    monkeypatch.setattr(tdx, "ioctl", answers.ioctl)
    tdx.init_vm(Vm(-1, 0), Cpuid())
    assert answers.left == 0


def test_a_cpu_that_stays_out_of_entropy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tdx, "ioctl", NoEntropy(1 << 30).ioctl)
    with pytest.raises(TdxError, match="the CPU's entropy ran out: try again"):
        tdx.init_vm(Vm(-1, 0), Cpuid())
