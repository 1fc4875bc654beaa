"""kvmtest/kvm/cpuid.py: CPUID tables as values, and as the guest sees them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest._native import ffi, lib
from kvmtest.guests import Guest, commands, long_guest
from kvmtest.kvm import Cpuid, CpuidEntry, System, Vm

word = st.integers(0, 2**32 - 1)
entries = st.builds(CpuidEntry, word, word, word, word, word, word, word)
tables = st.lists(entries, max_size=20).map(Cpuid)

BRAND_STRING = (0x80000002, 0x80000003, 0x80000004)

# What changes with time, with CR4, or with the CPU that executes it.
VOLATILE_LEAVES = {0x1, 0x7, 0xB, 0xD, 0x1F, 0x80000026}


@given(tables)
def test_a_table_comes_back_from_its_structure(table: Cpuid) -> None:
    assert Cpuid.from_struct(table.to_struct()) == table


@given(tables, st.lists(word, max_size=4))
def test_without_keeps_all_others_in_order(table: Cpuid, leaves: list[int]) -> None:
    kept = table.without(*leaves)
    assert list(kept) == [entry for entry in table if entry.function not in leaves]
    assert isinstance(kept, Cpuid)


@given(tables, entries, word)
def test_replace_changes_one_leaf_and_nothing_else(
    table: Cpuid, entry: CpuidEntry, value: int
) -> None:
    whole = Cpuid([*table.without(entry.function), entry])
    changed = whole.replace(entry.function, entry.index, ebx=value)
    assert changed[:-1] == whole[:-1]
    assert changed[-1] == entry._replace(ebx=value)


def test_replace_of_no_leaf_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Cpuid().replace(1, eax=0)
    # TypeError since Python 3.13.
    with pytest.raises((TypeError, ValueError), match="unexpected field"):
        Cpuid([CpuidEntry(1, 0, 0, 0, 0, 0, 0)]).replace(1, rax=0)


def test_find_tells_subleaves_apart() -> None:
    one, two = CpuidEntry(4, 0, 1, 1, 1, 1, 1), CpuidEntry(4, 1, 1, 2, 2, 2, 2)
    table = Cpuid([one, two])
    assert table.find(4) == one
    assert table.find(4, 1) == two
    assert table.find(4, 2) is None
    assert table.where(lambda entry: entry.eax == 2) == (two,)


def as_here(table: Cpuid) -> Cpuid:
    return table


def with_amx(table: Cpuid) -> Cpuid:
    """Return the table of a CPU with AMX (Sapphire Rapids and later)."""
    amx = [
        CpuidEntry(0x1D, 0, lib.KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 1, 0, 0, 0),
        CpuidEntry(0x1D, 1, lib.KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0x4002000, 0x80040, 16, 0),
        CpuidEntry(0x1E, 0, lib.KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0, 0x4010, 0, 0),
    ]
    return Cpuid([*table.without(0x1D, 0x1E), *amx])


def small(table: Cpuid) -> Cpuid:
    """Return the table of a CPU that has next to nothing."""
    return table.where(lambda entry: entry.function in (0, 1, 0x80000000, 0x80000001))


@pytest.mark.parametrize("of_cpu", [as_here, with_amx, small])
def test_what_is_set_is_what_is_got(
    vm: Vm, supported: Cpuid, of_cpu: Callable[[Cpuid], Cpuid]
) -> None:
    table = of_cpu(supported)
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(table)
    got = vcpu.get_cpuid()
    # A KVM may drop or add leaves by what its guests can have, and adjust features: kvm_pvm drops
    # those of AMX, and adds those of XSAVE. No KVM has a reason to touch these.
    for leaf in (0, 0x40000000, 0x80000000):
        assert got.find(leaf) == table.find(leaf)
    # What it has made of the table is taken as it is.
    vcpu.set_cpuid(got)
    assert vcpu.get_cpuid() == got


def test_each_register_of_an_entry_stays_in_its_place(vm: Vm, supported: Cpuid) -> None:
    # The brand string is anybody's to choose.
    names = [CpuidEntry(leaf, 0, 0, *range(leaf, leaf + 4)) for leaf in BRAND_STRING]
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(Cpuid([*supported.without(*BRAND_STRING), *names]))
    got = vcpu.get_cpuid()
    assert [got.find(leaf) for leaf in BRAND_STRING] == names


def test_the_supported_table_has_the_vendor_and_kvms_own_leaves(supported: Cpuid) -> None:
    vendor = supported.find(0)
    assert vendor is not None
    text = b"".join(n.to_bytes(4, "little") for n in (vendor.ebx, vendor.edx, vendor.ecx))
    assert f"vendor_id\t: {text.decode()}\n" in Path("/proc/cpuinfo").read_text()
    signature = supported.find(0x40000000)
    assert signature is not None
    assert signature.ebx.to_bytes(4, "little") == b"KVMK"


def test_the_table_grows_to_what_the_kernel_needs(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = system.get_supported_cpuid()
    rooms = []

    class SmallFirst:
        def new(self, ctype: str, init: dict[str, int]) -> object:
            small = {key: max(1, value // 128) for key, value in init.items()}
            rooms.append(small["nent"])
            return ffi.new(ctype, small)

    monkeypatch.setattr("kvmtest.kvm.system.ffi", SmallFirst())
    assert len(system.get_supported_cpuid()) == len(whole)
    assert rooms[0] == 1
    assert len(rooms) > 3


def test_emulated_features_are_a_table(system: System) -> None:
    if not system.check_extension("KVM_CAP_EXT_EMUL_CPUID"):
        pytest.skip("needs KVM_CAP_EXT_EMUL_CPUID")
    assert isinstance(system.get_emulated_cpuid(), Cpuid)


def test_the_guest_executes_cpuid_and_gets_its_table(guest: Guest) -> None:
    table = guest.vcpu.get_cpuid()
    stable = [e for e in table if e.function not in VOLATILE_LEAVES]
    assert len(stable) > 5
    for start in range(0, len(stable), lib.MAILBOX_CAPACITY):
        part = stable[start : start + lib.MAILBOX_CAPACITY]
        results = guest.execute(*(commands.cpuid(e.function, e.index) for e in part))
        assert [r.values for r in results] == [(e.eax, e.ebx, e.ecx, e.edx) for e in part]


def test_a_replaced_leaf_is_what_the_guest_sees(vm: Vm, supported: Cpuid) -> None:
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(supported.replace(0x40000000, ebx=0x74736574))
    guest = long_guest(vm, vcpu)
    guest.boot()
    assert guest.execute(commands.cpuid(0x40000000))[0].values[1] == 0x74736574


def test_a_leaf_left_out_is_zero_for_the_guest(vm: Vm, supported: Cpuid) -> None:
    vcpu = vm.create_vcpu()
    vcpu.set_cpuid(supported.without(0x40000001))
    guest = long_guest(vm, vcpu)
    guest.boot()
    assert guest.execute(commands.cpuid(0x40000001))[0].values == (0, 0, 0, 0)
