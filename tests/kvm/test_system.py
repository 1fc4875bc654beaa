"""kvmtest/kvm/system.py on this machine's /dev/kvm."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmtest._native import lib
from kvmtest.errors import KvmtestError
from kvmtest.kvm import CAPABILITIES, CapabilityMissing, KvmError, KvmUnavailable, System
from kvmtest.kvm.errors import HINTS
from kvmtest.kvm.system import UNAVAILABLE

OpenFiles = Callable[[], set[str]]
NOBODY = 65534


@contextmanager
def effective_user(user: int) -> Iterator[None]:
    before = os.geteuid()
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(before)


def test_opening_and_closing_leaves_no_descriptor(system: System, open_files: OpenFiles) -> None:
    before = open_files()
    with System() as another:
        assert len(open_files()) == len(before) + 1
        assert another.fd >= 0
    assert open_files() == before
    another.close()
    assert another.fd == -1


def test_descriptors_are_not_inherited_by_programs(system: System) -> None:
    assert not os.get_inheritable(system.fd)
    with system.create_vm() as vm:
        assert not os.get_inheritable(vm.fd)
        assert not os.get_inheritable(vm.create_vcpu().fd)


def test_a_missing_device_is_named_with_what_to_do(tmp_path: Path, open_files: OpenFiles) -> None:
    before = open_files()
    with pytest.raises(KvmUnavailable, match=r"nokvm: there is no such device; load the module"):
        System(tmp_path / "nokvm")
    assert open_files() == before


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_device_that_is_not_kvm_is_refused_and_closed(path: str, open_files: OpenFiles) -> None:
    before = open_files()
    with pytest.raises(KvmUnavailable, match=rf"^{path}: not a KVM device \(KVM_GET_API_VERSION"):
        System(path)
    assert open_files() == before


def test_an_ordinary_file_is_refused_and_closed(tmp_path: Path, open_files: OpenFiles) -> None:
    (tmp_path / "kvm").write_bytes(b"")
    before = open_files()
    with pytest.raises(KvmUnavailable, match="not a KVM device"):
        System(tmp_path / "kvm")
    assert open_files() == before


def test_another_api_version_is_refused_and_closed(
    system: System, open_files: OpenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmtest.kvm.system.ioctl", lambda fd, name, **kw: 11)
    before = open_files()
    with pytest.raises(KvmUnavailable, match="API version 11, not 12"):
        System()
    assert open_files() == before


def test_without_permission_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0)
    tmp_path.chmod(0o755)
    if os.geteuid() == 0:
        # Every folder above must let nobody through: pytest's own are for root alone.
        if not all(folder.stat().st_mode & 1 for folder in tmp_path.parents):
            device = Path("/dev/kvm")
            if device.stat().st_mode & 0o006 == 0o006:
                pytest.skip("needs a device that user nobody may not open")
        with effective_user(NOBODY), pytest.raises(KvmUnavailable) as caught:
            System(device)
    else:
        with pytest.raises(KvmUnavailable) as caught:
            System(device)
    assert str(caught.value) == f"{device}: {UNAVAILABLE[errno.EACCES]}"


def test_every_message_of_an_unusable_device_says_what_to_do() -> None:
    assert all("; " in text for text in UNAVAILABLE.values())


def test_an_error_names_ioctl_errno_and_what_to_do() -> None:
    error = KvmError("KVM_CREATE_VM", errno.EBUSY)
    assert (error.ioctl, error.errno, error.exit_status) == ("KVM_CREATE_VM", errno.EBUSY, 3)
    assert str(error) == (
        "KVM_CREATE_VM: Device or resource busy (EBUSY); "
        "another hypervisor holds VT-x or AMD-V: stop it"
    )


@pytest.mark.parametrize(("ioctl", "number"), list(HINTS))
def test_every_hint_is_shown_in_one_line(ioctl: str, number: int) -> None:
    text = str(KvmError(ioctl or "KVM_ANY", number, "vCPU 3"))
    assert text.startswith(f"{ioctl or 'KVM_ANY'} on vCPU 3: ")
    assert f"({errno.errorcode[number]}); {HINTS[ioctl, number]}" in text
    assert "\n" not in text


def test_an_errno_without_name_or_hint_is_still_shown() -> None:
    assert "(5555)" in str(KvmError("KVM_RUN", 5555))
    assert str(KvmError("KVM_RUN", errno.EPIPE)).endswith("Broken pipe (EPIPE)")


def test_a_closed_device_says_so_by_errno(system: System) -> None:
    with System() as another:
        pass
    with pytest.raises(KvmError) as caught:
        another.check_extension("KVM_CAP_USER_MEMORY")
    assert caught.value.errno == errno.EBADF


def test_capabilities_are_named_and_say_yes_to_what_every_kvm_has(system: System) -> None:
    offered = system.capabilities()
    assert offered["KVM_CAP_USER_MEMORY"] == 1
    assert offered["KVM_CAP_IMMEDIATE_EXIT"] == 1
    assert offered["KVM_CAP_NR_MEMSLOTS"] >= 32
    assert set(offered) <= set(CAPABILITIES)
    assert all(offered.values())


def test_a_capability_has_the_number_of_the_kernel_header() -> None:
    assert CAPABILITIES["KVM_CAP_IRQCHIP"] == 0
    assert CAPABILITIES["KVM_CAP_IMMEDIATE_EXIT"] == 136
    assert CAPABILITIES["KVM_CAP_VM_TYPES"] == 235


def test_an_unknown_capability_name_is_the_callers_mistake(system: System) -> None:
    with pytest.raises(AttributeError, match="KVM_CAP_FLYING"):
        system.check_extension("KVM_CAP_FLYING")


def test_a_vm_type_that_is_not_offered_is_named(system: System, open_files: OpenFiles) -> None:
    before = open_files()
    with pytest.raises(CapabilityMissing, match="KVM_CAP_VM_TYPES bit 30") as caught:
        system.create_vm(30)
    assert isinstance(caught.value, KvmtestError)
    assert open_files() == before


def test_the_default_vm_type_needs_no_capability(system: System) -> None:
    with system.create_vm(lib.KVM_X86_DEFAULT_VM) as vm:
        assert vm.fd >= 0


def test_msr_lists_hold_what_every_x86_kvm_saves(system: System) -> None:
    saved = system.get_msr_index_list()
    assert {0x10, 0x174, 0xC0000081} <= set(saved)  # TSC, SYSENTER_CS, STAR
    assert len(saved) == len(set(saved))


def test_feature_msrs_are_readable(system: System) -> None:
    if not system.check_extension("KVM_CAP_GET_MSR_FEATURES"):
        pytest.skip("needs KVM_CAP_GET_MSR_FEATURES")
    for index in system.get_msr_feature_index_list():
        assert isinstance(system.get_feature_msr(index), int)


@pytest.mark.usefixtures("msrs_fault")
def test_a_feature_msr_that_is_none_has_no_value(system: System) -> None:
    if not system.check_extension("KVM_CAP_GET_MSR_FEATURES"):
        pytest.skip("needs KVM_CAP_GET_MSR_FEATURES")
    assert system.get_feature_msr(0x4B564D99) is None
