"""fleet/shell_host.py and fleet/ssh_host.py on real hosts: as found, whatever happened to them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet.conftest import PRETENDED
from support.hosts import Hosts
from support.kernel_files import RELEASE, deb, tree_files

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.fleet import ssh_host
from kvmtest.fleet.host import HostLost, KernelKind, PlannedKernel, WrongKernel
from kvmtest.fleet.openssh import OpenSsh
from kvmtest.fleet.plan import SshHost
from kvmtest.fleet.remote import FOLDER
from kvmtest.fleet.shell_host import ShellHost
from kvmtest.target import Job

OWN = PlannedKernel("own")
JOB = Job(["--only", "kernel.fix-present"], id="job")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVMTEST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_a_host_of_a_plan_runs_its_own_kernel_and_is_left_as_it_was(hosts: Hosts) -> None:
    steps: list[str] = []
    reach = SshHost(f"root@{hosts['host1'].address}")
    with ssh_host.opened("one", reach, "kexec", steps.append, ssh_config=hosts.ssh_config) as host:
        assert host.name == "one"
        outcome = host.boot(OWN, 60).run(JOB)
        assert outcome.evidence.kernel.release == hosts["host1"].run("uname", "-r").stdout.strip()
        # Whoever was killed and comes back asks for the same again.
        assert host.boot(OWN, 60).run(JOB).files == outcome.files
        host.restore(60)
        host.restore(60)
    assert hosts["host1"].run("ls", "-A", "/var/lib/kvmtest").stdout == ""
    assert all(step.startswith("one: ") for step in steps)


def test_a_host_has_one_owner_until_it_is_restored(hosts: Hosts) -> None:
    shell = OpenSsh("host4", config=hosts.ssh_config)
    one, other = (ShellHost("host4", shell, print, owner=name) for name in ("one", "other"))
    one.boot(OWN, 60).run(JOB)
    with pytest.raises(HostLost, match=r"^host4: another fleet has it; wait for its end"):
        other.boot(OWN, 60)
    # It leaves the owner's things alone.
    other.restore(60)
    assert hosts["host4"].run("ls", "/var/lib/kvmtest").stdout == "fleet\nfleet-owner\n"
    # The owner may have been killed, and come back.
    ShellHost("host4", shell, print, owner="one").boot(OWN, 60)
    one.restore(60)
    other.boot(OWN, 60)
    other.restore(60)
    assert hosts["host4"].run("ls", "-A", "/var/lib/kvmtest").stdout == ""


def test_an_address_that_is_none_is_refused() -> None:
    with (
        pytest.raises(UsageError, match="names no host"),
        ssh_host.opened("one", SshHost("-oProxyCommand=id"), "grub", print),
    ):
        pass


def test_a_host_that_is_off_is_lost(hosts: Hosts) -> None:
    hosts["host2"].off()
    host = ShellHost("host2", OpenSsh("host2", config=hosts.ssh_config, connect_s=1), print)
    with pytest.raises(HostLost, match=r"^host2: "):
        host.boot(OWN, 1)
    with pytest.raises(HostLost, match=r"^host2: not restored: host2: no connection"):
        host.restore(1)
    hosts["host2"].on()
    hosts["host2"].await_ssh()


def test_a_host_with_power_is_brought_back_and_left_as_it_was(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is silent once, not for each that asks it.
    monkeypatch.setattr("kvmtest.fleet.boot._SILENCE_S", 1.0)
    shell = OpenSsh("host3", config=hosts.ssh_config, connect_s=1)
    host = ShellHost("host3", shell, print, power=hosts["host3"], owner="one")
    host.boot(OWN, 60).run(JOB)
    hosts["host3"].off()
    host.restore(60)
    hosts["host3"].await_ssh()
    assert hosts["host3"].run("ls", "-A", "/var/lib/kvmtest").stdout == ""


def test_a_host_whose_power_fails_amid_its_restoration_is_brought_back(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("boot", "shell_host"):
        monkeypatch.setattr(f"kvmtest.fleet.{module}._SILENCE_S", 1.0)
    shell = OpenSsh("host3", config=hosts.ssh_config, connect_s=1)
    ShellHost("host3", shell, print, owner="one").boot(OWN, 60).run(JOB)
    cut: list[str] = []

    class Failing(OpenSsh):
        def run(self, words: Sequence[str], *given: Any, **more: Any) -> Any:
            if not cut and FOLDER in "".join(words):
                cut.extend(words)
                hosts["host3"].off()
            return super().run(words, *given, **more)

    failing = Failing("host3", config=hosts.ssh_config, connect_s=1)
    told: list[str] = []
    ShellHost("host3", failing, told.append, power=hosts["host3"], owner="one").restore(60)
    assert cut
    assert sum("switching it off and on again" in line for line in told) == 1
    hosts["host3"].await_ssh()
    assert hosts["host3"].run("ls", "-A", "/var/lib/kvmtest").stdout == ""


def test_a_run_on_another_kernel_than_was_booted_is_no_result(hosts: Hosts, tmp_path: Path) -> None:
    kernel = PlannedKernel("k", KernelKind.DEB, paths=[deb(tmp_path / "kernel.deb", tree_files())])
    host = ShellHost("host8", OpenSsh("host8", config=hosts.ssh_config), print)
    target = host.boot(kernel, 60)
    assert target.run(JOB).evidence.kernel.release == RELEASE
    # It panics between two runs: the boot was for once.
    hosts["host8"].cycle()
    hosts["host8"].await_ssh()
    with pytest.raises(WrongKernel, match=rf"on {re.escape(PRETENDED)}, and {re.escape(RELEASE)} "):
        target.run(replace(JOB, id="next"))
    host.restore(60)
    assert hosts["host8"].run("ls", "-A", "/var/lib/kvmtest", check=False).stdout == ""


def test_a_kernel_that_is_none_is_told(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "kernel.deb").write_bytes(b"none")
    kernel = PlannedKernel("none", KernelKind.DEB, paths=[tmp_path / "kernel.deb"])
    host = ShellHost(
        "host1", OpenSsh("host1", config=hosts.ssh_config), print, cache=Cache(tmp_path / "cache")
    )
    with pytest.raises((EnvironmentUnfit, UsageError), match=r"kernel\.deb"):
        host.boot(kernel, 60)
