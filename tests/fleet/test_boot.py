"""Kernels are changed on hosts that pretend to boot them, and nothing is left, whatever happens."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fleet.conftest import PRETENDED, started
from support.hosts import Hosts, HostSpec, NamespacedHost
from support.kernel_files import BANNER, RELEASE, bzimage, deb, tree_files, vmlinux
from support.long_tests import takes_long

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.fleet.boot import FOLDER, HostKernel
from kvmtest.fleet.host import HostLost, KernelKind, PlannedKernel, WrongKernel
from kvmtest.fleet.openssh import OpenSsh
from kvmtest.fleet.packed_kernel import PackedKernel, pack
from kvmtest.fleet.shell import ANSWER, PATIENCE, ConnectionLost, Ran, Shell

OTHER = "6.18.1+test-amd64"


def packed(tmp_path: Path, release: str = RELEASE, build: str = "", size: int = 0) -> PackedKernel:
    files = tree_files(release)
    banner = BANNER.replace(RELEASE, release).replace("#1", f"#1{build}")
    files[f"boot/vmlinuz-{release}"] = bzimage(vmlinux(), banner=banner)
    files[f"lib/modules/{release}/kernel/big.ko"] = os.urandom(size)
    package = deb(tmp_path / f"{release}{build}.deb", files, package=f"linux-image-{release}")
    planned = PlannedKernel("k", KernelKind.DEB, paths=[package])
    return pack(planned, Cache(tmp_path / "cache"), print)


@pytest.fixture
def kernel(tmp_path: Path) -> PackedKernel:
    return packed(tmp_path)


@pytest.fixture
def shell(hosts: Hosts) -> OpenSsh:
    return OpenSsh("host8", config=hosts.ssh_config, connect_s=2)


@pytest.fixture
def host(hosts: Hosts, shell: OpenSsh) -> Iterator[NamespacedHost]:
    """A host that nothing was brought to, in which nothing must be left."""
    host = hosts["host8"]
    before = left(host)
    assert running(host) == PRETENDED
    yield host
    host.mend()
    host.on()
    host.await_ssh()
    HostKernel(shell, print, host).restore(60)
    assert (running(host), left(host)) == (PRETENDED, before)


def left(host: NamespacedHost) -> set[str]:
    """Return what the host's disk has that a change of its kernel could leave there."""
    return {
        str(path.relative_to(host.disk))
        for folder in ("boot", "lib/modules", "usr/lib/modules", "var/lib/kvmtest")
        for path in (host.disk / folder).rglob("*")
        if path.name != "grubenv"
        # What was deleted of this machine's own.
        and not path.is_char_device()
    }


def running(host: NamespacedHost) -> str:
    return host.run("uname", "-r").stdout.strip()


def test_a_host_boots_another_kernel_and_comes_back(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel
) -> None:
    on_host = HostKernel(shell, print)
    before = on_host.restore(30)
    booted = on_host.boot(kernel, 60)
    assert (running(host), booted.release) == (RELEASE, RELEASE)
    assert booted.boot_id != before.boot_id
    assert host.run("ls", f"/lib/modules/{RELEASE}/kernel/virt/lib").stdout == "irqbypass.ko\n"
    # What boots next, after a power cut, is the default.
    assert "kvmtest" not in host.run("sh", "-c", "cat /boot/grub/grubenv /boot/grub/*.cfg").stdout
    back = on_host.restore(60)
    assert (running(host), back.release) == (PRETENDED, PRETENDED)


def test_a_kernel_that_runs_is_not_booted_again(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel
) -> None:
    first = HostKernel(shell, print).boot(kernel, 60)
    assert HostKernel(shell, print).boot(kernel, 60) == first


def test_without_another_kernel_nothing_is_done(host: NamespacedHost, shell: OpenSsh) -> None:
    on_host = HostKernel(shell, print)
    before = on_host.restore(30)
    assert on_host.boot(None, 60) == on_host.restore(60) == before


def test_from_one_kernel_to_the_next_it_is_one_reboot(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel, tmp_path: Path
) -> None:
    told: list[str] = []
    on_host = HostKernel(shell, told.append)
    on_host.boot(kernel, 60)
    on_host.boot(packed(tmp_path, OTHER), 60)
    assert running(host) == OTHER
    assert sum("rebooting" in line for line in told) == 2
    # The first is gone.
    assert host.run("ls", "/boot/kvmtest").stdout == f"{OTHER}\n"
    assert host.run("ls", f"/lib/modules/{RELEASE}", check=False).returncode == 2


def test_a_host_that_has_still_to_go_down_is_not_back(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel
) -> None:
    told: list[Sequence[str]] = []

    class Lingering(OpenSsh):
        """A host that answers twice more after it was told to reboot."""

        def run(self, words: Sequence[str], *given: Any, **more: Any) -> Ran:
            if words[-1].endswith("|| reboot"):
                told.append(words)
                return Ran(0)
            ran = super().run(words, *given, **more)
            if 0 < len(told) < 3:
                told.append(words)
                if len(told) == 3:
                    with contextlib.suppress(ConnectionLost):
                        super().run(told[0])
            return ran

    lingering = Lingering(shell.host, config=shell.config, connect_s=shell.connect_s)
    assert HostKernel(lingering, print).boot(kernel, 60).release == RELEASE
    assert running(host) == RELEASE


@takes_long
def test_another_build_of_the_release_that_runs_is_another_kernel(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel, tmp_path: Path
) -> None:
    on_host = HostKernel(shell, print)
    first = on_host.boot(kernel, 60)
    second = on_host.boot(packed(tmp_path, build="00"), 120)
    assert (first.release, second.release) == (RELEASE, RELEASE)
    assert second.build.startswith("#100 ")


def test_modules_of_the_host_s_own_are_not_touched(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel
) -> None:
    folder = f"/lib/modules/{RELEASE}"
    host.run("mkdir", "-p", folder)
    try:
        with pytest.raises(EnvironmentUnfit, match="modules of another build of 6"):
            HostKernel(shell, print).boot(kernel, 60)
        HostKernel(shell, print).restore(60)
        assert host.run("ls", "-d", folder).stdout == f"{folder}\n"
    finally:
        host.run("rm", "-r", folder)


def test_a_host_that_comes_back_with_another_kernel_is_told(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel
) -> None:
    host.boot_the_default_alone()
    with pytest.raises(WrongKernel, match=rf"{PRETENDED} .* runs there after the reboot into"):
        HostKernel(shell, print).boot(kernel, 60)


@takes_long
def test_a_host_that_never_comes_back_is_lost_at_its_deadline(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel
) -> None:
    host.refuse_reboots()
    with pytest.raises(HostLost, match=r"host8: it did not (answer|reboot)"):
        HostKernel(shell, print).boot(kernel, 30)
    # No switch of its power: there is nothing to be done.
    with pytest.raises(HostLost):
        HostKernel(shell, print).restore(5)


def test_power_brings_a_host_back(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmtest.fleet.boot._SILENCE_S", 3.0)
    HostKernel(shell, print).boot(kernel, 60)
    host.off()
    told: list[str] = []
    HostKernel(shell, told.append, host).restore(60)
    assert any("switching it off and on again" in line for line in told)


@dataclass
class DyingShell:
    """A shell whose process is killed after its n-th use, and so before the next."""

    shell: Shell
    uses: int
    used: int = field(default=0)

    @property
    def name(self) -> str:
        return self.shell.name

    def run(
        self,
        words: Sequence[str],
        given: bytes = b"",
        *,
        deadline: float = PATIENCE,
        most: int = ANSWER,
    ) -> Ran:
        return self._counted(lambda: self.shell.run(words, given, deadline=deadline, most=most))

    def put(self, local: Path, remote: str, *, deadline: float = PATIENCE) -> None:
        self._counted(lambda: self.shell.put(local, remote, deadline=deadline))

    def get(self, remote: str, *, most: int, deadline: float = PATIENCE) -> bytes:
        return self._counted(lambda: self.shell.get(remote, most=most, deadline=deadline))

    def _counted(self, work: Callable[[], object]) -> object:
        self.used += 1
        result = work()
        if self.used == self.uses:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def is_killed(shell: Shell, kernel: PackedKernel, uses: int) -> bool:
    """Boot a kernel in a process that is killed; tell whether it was, before it was done."""
    child = os.fork()
    if not child:
        try:
            HostKernel(DyingShell(shell, uses), lambda _: None).boot(kernel, 60)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@takes_long
def test_a_kill_at_any_point_leaves_what_a_resume_goes_on_with(
    host: NamespacedHost, shell: OpenSsh, kernel: PackedKernel
) -> None:
    uses = 0
    while is_killed(shell, kernel, uses := uses + 1):
        # Also where the kernel has been brought and is not unpacked.
        if uses % 3 == 2:
            HostKernel(shell, print).boot(kernel, 60)
            assert running(host) == RELEASE
        HostKernel(shell, print).restore(60)
        assert running(host) == PRETENDED
        assert not any("kvmtest" in name for name in left(host)), uses
    assert uses > 8


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with started(tmp_path_factory, [HostSpec("small", disk="16m", kernel=PRETENDED)]) as hosts:
        yield hosts


def test_a_full_disk_is_told_and_what_was_brought_is_removed(small: Hosts, tmp_path: Path) -> None:
    on_host = HostKernel(OpenSsh("small", config=small.ssh_config), print)
    with pytest.raises(EnvironmentUnfit, match="free some space there"):
        on_host.boot(packed(tmp_path, size=20_000_000), 60)
    on_host.restore(60)
    assert not any(FOLDER[1:] in name for name in left(small["small"]))
