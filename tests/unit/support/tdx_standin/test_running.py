"""What KVM_RUN shows of a TD's exit."""

from support.tdx_standin.running import fatal_event
from support.tdx_standin.tdcall import NAMES

from kvmtest._native import ffi, lib


def test_a_fatal_error_shows_the_registers_by_their_numbers_in_instructions() -> None:
    event = fatal_event({name: 100 + number for number, name in enumerate(NAMES)})
    run = ffi.new("struct kvm_run *")
    ffi.buffer(ffi.addressof(run.system_event))[: len(event)] = event
    assert (run.system_event.type, run.system_event.ndata) == (lib.KVM_SYSTEM_EVENT_TDX_FATAL, 16)
    assert list(run.system_event.data) == list(range(100, 116))
    assert NAMES[:8] == ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
