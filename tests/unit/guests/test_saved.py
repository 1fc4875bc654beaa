"""kvmtest/guests/saved.py: what is saved of a guest, and in which order it is restored."""

from types import SimpleNamespace
from typing import Any

import pytest

from kvmtest._native import ffi
from kvmtest.guests.saved import SavedGuest
from kvmtest.guests.vmcs12 import of_nested_state
from kvmtest.kvm import Memory

HEADER = ffi.sizeof("struct kvm_nested_state")


class FakeVcpu:
    """Keeps what it is given, in order."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Any]] = []

    def complete(self) -> None:
        self.given.append(("complete", None))

    def get_regs(self) -> str:
        return "regs"

    def get_sregs(self) -> str:
        return "sregs"

    def get_nested_state(self) -> bytes:
        return bytes(HEADER + 4096)

    def __getattr__(self, name: str) -> Any:
        assert name.startswith("set_")
        return lambda value: self.given.append((name.removeprefix("set_"), value))


@pytest.fixture
def guest(memory: Memory) -> Any:
    return SimpleNamespace(vcpu=FakeVcpu(), memory=memory)


def test_a_pending_exit_is_completed_first(guest: Any) -> None:
    SavedGuest.of(guest)
    assert guest.vcpu.given == [("complete", None)]


def test_segments_and_msrs_that_come_first_precede_the_nested_state(guest: Any) -> None:
    saved = SavedGuest.of(guest)
    guest.vcpu.given.clear()
    saved.restore(guest, first={1: 2}, last={3: 4})
    assert [name for name, _ in guest.vcpu.given] == [
        "msrs", "sregs", "nested_state", "regs", "msrs"
    ]  # fmt: skip
    assert [value for name, value in guest.vcpu.given if name == "msrs"] == [{1: 2}, {3: 4}]


def test_memory_comes_back_as_it_was(guest: Any) -> None:
    guest.memory.write(0x1234, b"before")
    saved = SavedGuest.of(guest)
    guest.memory.write(0x1234, b"after.")
    saved.restore(guest)
    assert guest.memory.read(0x1234, 6) == b"before"


def test_another_value_in_vmcs12_changes_that_field_alone(guest: Any) -> None:
    saved = SavedGuest.of(guest)
    other = saved.with_vmcs12(guest_ia32_debugctl=0x4000)
    state = ffi.from_buffer("char[]", bytearray(other.nested_state))
    assert of_nested_state(state).guest_ia32_debugctl == 0x4000
    changed = [at for at, each in enumerate(other.nested_state) if each]
    assert len(changed) == 1
    assert saved.nested_state == bytes(HEADER + 4096)
