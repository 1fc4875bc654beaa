"""What the fleet's tests run on: real sshd's in namespaces of this machine (support.hosts)."""

from collections.abc import Iterator

import pytest
from support.hosts import MOST, Hosts, HostSpec, namespaced_hosts, why_no_hosts

from kvmtest.errors import KvmtestError

#: The release that host8 pretends to boot by default; it also pretends to boot others.
PRETENDED = "6.1.0-1-amd64"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Eight hosts, host1 to host8; host7 has a disk of 48 MiB, host8 pretends its kernels.

    A test leaves each host on, and with its cable.
    """
    specs = [HostSpec(f"host{number}") for number in range(1, MOST - 1)]
    specs += [HostSpec("host7", disk="48m"), HostSpec("host8", kernel=PRETENDED)]
    with started(tmp_path_factory, specs) as hosts:
        yield hosts


def started(tmp_path_factory: pytest.TempPathFactory, specs: list[HostSpec]):
    """Return the hosts' context, or skip the test where there can be none."""
    if missing := why_no_hosts():
        pytest.skip(missing)
    try:
        return namespaced_hosts(tmp_path_factory.mktemp("fleet"), specs)
    except KvmtestError as error:
        pytest.skip(str(error))
