"""kvmtest/kvm/stats.py: KVM's binary statistics move as the guest does."""

import os
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmtest._native import lib
from kvmtest.guests import Guest, commands
from kvmtest.kvm import Stats, System, Vm

OpenFiles = Callable[[], set[str]]


@pytest.fixture(autouse=True)
def _offered(system: System) -> None:
    if not system.check_extension("KVM_CAP_BINARY_STATS_FD"):
        pytest.skip("needs KVM_CAP_BINARY_STATS_FD")


COUNTERS = ("exits", "io_exits", "insn_emulation")


def number(value: int | tuple[int, ...]) -> int:
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("count", [1, 100])
def test_exits_and_io_exits_count_the_outs(real: Guest, count: int) -> None:
    before = real.vcpu.stats()
    entries = real.vcpu.entries
    real.ring(count)
    after = real.vcpu.stats()
    moved = {name: number(after[name]) - number(before[name]) for name in COUNTERS}
    outs = count + 1  # the doorbells and the done port
    assert real.vcpu.entries - entries == outs
    # Others (interrupts of the host) may come in between.
    assert moved["exits"] >= outs
    if moved["io_exits"] == 0:
        # A KVM that emulates the guest's kernel (kvm_pvm) sees instructions, no I/O exits.
        assert moved["insn_emulation"] >= outs
    else:
        assert moved["io_exits"] == outs


def test_a_spin_has_no_io_exits(guest: Guest) -> None:
    before = number(guest.vcpu.stats()["io_exits"])
    guest.transport.send([commands.spin()])
    guest.vcpu.run(0.005)
    assert number(guest.vcpu.stats()["io_exits"]) == before


def test_single_values_are_ints_and_histograms_tuples(guest: Guest) -> None:
    guest.vcpu.stats()
    stats = guest.vcpu._stats
    assert stats is not None
    values = stats.read()
    assert len(values) == len(stats.descriptors)
    for descriptor in stats.descriptors:
        value = values[descriptor.name]
        if descriptor.size == 1:
            assert isinstance(value, int)
        else:
            assert isinstance(value, tuple)
            assert len(value) == descriptor.size
    kinds = {descriptor.type for descriptor in stats.descriptors}
    assert lib.KVM_STATS_TYPE_CUMULATIVE in kinds


def test_the_descriptor_names_its_vcpu_or_vm(vm: Vm) -> None:
    vcpu = vm.create_vcpu(3)
    vcpu.stats()
    vm.stats()
    assert vcpu._stats is not None
    assert vm._stats is not None
    # The number is the process's in the first PID namespace, which need not be this one.
    assert re.fullmatch(r"kvm-[1-9]\d*", vm._stats.id)
    assert vcpu._stats.id == f"{vm._stats.id}/vcpu-3"


def test_a_vms_own_counters_are_there(vm: Vm) -> None:
    assert "remote_tlb_flush" in vm.stats()


def test_one_counter_is_what_all_of_them_say_of_it(guest: Guest) -> None:
    every = guest.vcpu.stats()
    single = {name: value for name, value in every.items() if isinstance(value, int)}
    assert single["exits"] > 0
    assert {name: guest.vcpu.stat(name) for name in single} == single
    with pytest.raises(KeyError):
        guest.vcpu.stat("no such counter")


def test_two_vcpus_count_apart(vm: Vm, real: Guest) -> None:
    other = vm.create_vcpu()
    before = other.stats()["io_exits"]
    real.ring(50)
    assert other.stats()["io_exits"] == before


def test_the_descriptor_is_opened_once_and_closed(vm: Vm, open_files: OpenFiles) -> None:
    vcpu = vm.create_vcpu()
    before = open_files()
    vcpu.stats()
    vcpu.stats()
    assert len(open_files()) == len(before) + 1
    assert vcpu._stats is not None
    with vcpu._stats as stats:
        pass
    assert open_files() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        stats.read()


@pytest.mark.parametrize("content", [b"", b"\xff" * 24, bytes(10)])
def test_a_descriptor_that_is_no_statistics_is_closed(
    tmp_path: Path, content: bytes, open_files: OpenFiles
) -> None:
    path = tmp_path / "stats"
    path.write_bytes(content)
    before = open_files()
    with pytest.raises((ValueError, struct.error, OSError, OverflowError, MemoryError)):
        Stats(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    assert open_files() == before


def test_a_made_up_block_is_read_as_the_documentation_has_it() -> None:
    # Documentation/virt/kvm/api.rst, 4.133: header, id, descriptors with names, data.
    name_size, count = 16, 2
    header = struct.pack("=IIIIII", 0, name_size, count, 24, 40, 40 + count * 32)
    identity = b"kvm-1/vcpu-0".ljust(16, b"\0")
    first = struct.pack("=IhHII", 0x0, 0, 1, 0, 0) + b"exits".ljust(name_size, b"\0")
    second = struct.pack("=IhHII", 0x14, -9, 3, 8, 0) + b"halt_hist".ljust(name_size, b"\0")
    data = struct.pack("=4Q", 7, 1, 2, 3)
    with tempfile.TemporaryFile() as file:
        file.write(header + identity + first + second + data)
        file.flush()
        with Stats(os.dup(file.fileno())) as stats:
            assert stats.id == "kvm-1/vcpu-0"
            assert stats.read() == {"exits": 7, "halt_hist": (1, 2, 3)}
            assert stats.descriptors[1].exponent == -9
            assert (stats.descriptors[1].type, stats.descriptors[1].unit) == (4, 0x10)
