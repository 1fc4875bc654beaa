"""MSRs of a vCPU: read and written in order, and the first that is refused is named."""

import pytest

from kvmtest.errors import KvmtestError
from kvmtest.guests import Guest, commands
from kvmtest.kvm import MsrRefused, System, Vcpu, Vm

SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, PAT = 0x174, 0x175, 0x176, 0x277
EFER = 0xC0000080
TSC_AUX = 0xC0000103
BOGUS = 0x4B564D99  # in KVM's own range, and nothing


@pytest.fixture
def vcpu(vm: Vm) -> Vcpu:
    return vm.create_vcpu()


def test_what_is_set_is_what_is_read(vcpu: Vcpu) -> None:
    values = {SYSENTER_EIP: 0x3000, SYSENTER_CS: 0x10, SYSENTER_ESP: 0x2000}
    vcpu.set_msrs(values)
    assert vcpu.get_msrs(values) == values
    assert vcpu.get_msr(SYSENTER_EIP) == 0x3000


def test_msrs_come_in_the_order_asked_for(vcpu: Vcpu) -> None:
    wanted = [SYSENTER_EIP, PAT, SYSENTER_CS]
    assert list(vcpu.get_msrs(wanted)) == wanted
    assert list(vcpu.get_msrs(iter(reversed(wanted)))) == wanted[::-1]


def test_no_msrs_is_no_work(vcpu: Vcpu) -> None:
    assert vcpu.get_msrs([]) == {}
    vcpu.set_msrs({})


@pytest.mark.usefixtures("msrs_fault")
@pytest.mark.parametrize("before", [[], [SYSENTER_CS], [SYSENTER_CS, PAT, SYSENTER_ESP]])
def test_a_refused_read_names_the_index(vcpu: Vcpu, before: list[int]) -> None:
    with pytest.raises(MsrRefused, match=r"KVM_GET_MSRS: MSR 0x4b564d99 was refused") as caught:
        vcpu.get_msrs([*before, BOGUS, SYSENTER_EIP])
    assert isinstance(caught.value, KvmtestError)
    assert (caught.value.index, caught.value.value) == (BOGUS, None)


@pytest.mark.usefixtures("msrs_fault")
def test_a_refused_write_names_index_and_value_and_keeps_what_came_before(vcpu: Vcpu) -> None:
    vcpu.set_msrs({SYSENTER_CS: 1, SYSENTER_EIP: 2})
    with pytest.raises(MsrRefused, match=r"KVM_SET_MSRS: MSR 0x4b564d99 = 0x7 was") as caught:
        vcpu.set_msrs({SYSENTER_CS: 0x18, BOGUS: 7, SYSENTER_EIP: 0x5000})
    assert (caught.value.ioctl, caught.value.index, caught.value.value) == (
        "KVM_SET_MSRS",
        BOGUS,
        7,
    )
    assert vcpu.get_msrs([SYSENTER_CS, SYSENTER_EIP]) == {SYSENTER_CS: 0x18, SYSENTER_EIP: 2}


def test_a_value_that_an_msr_cannot_hold_is_refused(vcpu: Vcpu) -> None:
    efer = vcpu.get_msr(EFER)
    with pytest.raises(MsrRefused) as caught:
        vcpu.set_msr(EFER, 1 << 40)  # reserved
    assert (caught.value.index, caught.value.value) == (EFER, 1 << 40)
    assert vcpu.get_msr(EFER) == efer


def test_the_guest_reads_what_the_host_sets_and_the_other_way_round(guest: Guest) -> None:
    guest.vcpu.set_msr(PAT, 0x0007040600070406)
    read, written = guest.execute(commands.rdmsr(PAT), commands.wrmsr(SYSENTER_EIP, 0x123456789A))
    assert read.value == 0x0007040600070406
    assert written.fault is None
    assert guest.vcpu.get_msr(SYSENTER_EIP) == 0x123456789A


def test_tsc_aux_reaches_the_guest_where_cpuid_has_rdtscp(guest: Guest) -> None:
    leaf = guest.vcpu.get_cpuid().find(0x80000001)
    if leaf is None or not leaf.edx >> 27 & 1:
        pytest.skip("needs RDTSCP in KVM_GET_SUPPORTED_CPUID")
    guest.vcpu.set_msr(TSC_AUX, 0x1234)
    assert guest.execute(commands.rdmsr(TSC_AUX))[0].value == 0x1234


def test_every_msr_of_the_list_is_read_or_named(system: System, guest: Guest) -> None:
    indices = system.get_msr_index_list()
    for index in indices:
        try:
            named = list(guest.vcpu.get_msrs([index]))
        except MsrRefused as refused:
            named = [refused.index]
        assert named == [index]
