"""Which files are the host's that is stood in for."""

import pytest
from support.tdx_standin.files import is_of_host


@pytest.mark.parametrize(
    "path",
    ["/sys", "/sys/devices/cpu/freeze_on_smi", "/proc/cpuinfo", "/dev/kmsg", "/dev/cpu/0/msr"],
)
def test_it_is_of_the_host(path: str) -> None:
    assert is_of_host(path)


@pytest.mark.parametrize("path", ["/system", "/proc/self/maps", "/proc/1/fd", "/dev/kvm", "/usr"])
def test_it_is_of_this_machine(path: str) -> None:
    assert not is_of_host(path)
