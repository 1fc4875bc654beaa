"""A machine of QEMU really reboots into another Debian kernel, is measured there, and comes back.

QEMU emulates it without KVM: labgrid's QEMUDriver is its power, and its AMD CPU has SVM. A test
takes three minutes or more: KVMTEST_REBOOT_TESTS=1 runs the first, KVMTEST_REBOOT_TESTS=all all.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from labgrid import Environment
from labgrid.strategy import StrategyError
from support.debian_machine import (
    CPU,
    EXTRA,
    MEMORY,
    DebianDisk,
    debian_disk,
    free_port,
    nic,
    why_no_machine,
)

from kvmtest.cache import Cache
from kvmtest.errors import KvmtestError
from kvmtest.fleet.boot import FOLDER
from kvmtest.fleet.host import KernelKind, PlannedKernel, WrongKernel
from kvmtest.fleet.labgrid import KernelStrategy
from kvmtest.fleet.packed_kernel import PackedKernel, pack
from kvmtest.judge import Verdict

#: The series of the kernel that the machine is to boot; its own is of Debian 12, 6.1.
SERIES = "6.12"
#: These take seconds where QEMU emulates the machine; svm.guest.debugctl runs a guest.
ONLY = ("kernel.fix-present", "svm.guest.debugctl", "any.no-warnings")
# Seconds that a boot may take here, on a busy machine.
BOOT_S = 900

ASKED_FOR = os.environ.get("KVMTEST_REBOOT_TESTS", "")
pytestmark = pytest.mark.skipif(
    not ASKED_FOR, reason="reboots take minutes: KVMTEST_REBOOT_TESTS=1 runs one, =all all"
)
further = pytest.mark.skipif(ASKED_FOR != "all", reason="takes minutes: KVMTEST_REBOOT_TESTS=all")


@pytest.fixture(scope="module")
def made() -> DebianDisk:
    if missing := why_no_machine():
        pytest.skip(missing)
    try:
        return debian_disk(Cache.default(), print)
    except KvmtestError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def kernel() -> PackedKernel:
    planned = PlannedKernel("k", KernelKind.DEBIAN, version=SERIES)
    try:
        return pack(planned, Cache.default(), print)
    except KvmtestError as error:
        pytest.skip(f"needs a kernel of Debian's archive: {error}")


@pytest.fixture
def machine(made: DebianDisk, tmp_path: Path) -> Iterator[KernelStrategy]:
    """The machine, off; its disk is this test's own."""
    port = free_port()
    made.write_known_hosts(tmp_path / "known_hosts", port)
    made.new_disk(tmp_path / "disk.raw")
    qemu = {
        "qemu_bin": "qemu", "machine": "pc", "cpu": CPU, "memory": MEMORY, "disk": "disk",
        "disk_opts": "cache=unsafe", "nic": nic(port),
        "extra_args": f"{EXTRA} -serial file:{tmp_path}/console",
    }  # fmt: skip
    ours = {"kernel": SERIES, "boot_deadline": BOOT_S}
    ours["options"] = " ".join(f"--only {each}" for each in ONLY)
    service = {"address": "127.0.0.1", "port": port, "username": "root"}
    config = {
        "imports": ["kvmtest.fleet.labgrid"],
        "tools": {"qemu": "qemu-system-x86_64"},
        "images": {"disk": "disk.raw"},
        "targets": {
            "main": {
                "resources": {"NetworkService": service},
                "drivers": {
                    "QEMUDriver": qemu,
                    "CheckedSSHDriver": {"known_hosts": "known_hosts", "keyfile": str(made.key)},
                    "KernelStrategy": ours,
                },
            }
        },
    }
    (tmp_path / "env.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    env = Environment(str(tmp_path / "env.yaml"))
    try:
        yield env.get_target().get_driver(KernelStrategy)
    finally:
        env.cleanup()
        sys.stdout.write((tmp_path / "console").read_text(errors="replace")[-4000:])


def said(machine: KernelStrategy, command: str) -> str:
    """Run a command by the machine's SSHDriver."""
    return "\n".join(machine.ssh.run_check(command))


#: What of the host a kernel change could leave behind.
LEFT = (
    "ls /boot /lib/modules; ls -d /boot/kvmtest /var/lib/kvmtest; "
    "cat /boot/grub/custom.cfg; grep next_entry /boot/grub/grubenv; cat /boot/grub/grub.cfg"
)


def test_a_machine_boots_another_kernel_is_measured_and_comes_back(
    made: DebianDisk, kernel: PackedKernel, machine: KernelStrategy
) -> None:
    machine.transition("own")
    assert said(machine, "uname -r") == made.default_release
    before = said(machine, f"({LEFT}) 2>&1 || true")

    machine.transition("kernel")
    assert said(machine, "uname -r") == kernel.release != made.default_release
    assert f"{FOLDER}/record.json" in said(machine, f"ls {FOLDER}/*")

    machine.transition("measured")
    outcome = machine.outcome
    assert outcome is not None
    evidence = outcome.evidence
    assert evidence.kernel.release == kernel.release
    verdicts = {result.id: result.verdict for result in evidence.results}
    assert set(verdicts) == set(ONLY)
    assert verdicts["kernel.fix-present"] is Verdict.PASS
    assert outcome.exit_status == 0

    machine.transition("restored")
    assert said(machine, "uname -r") == made.default_release
    assert said(machine, f"({LEFT}) 2>&1 || true") == before
    machine.transition("off")


@further
def test_a_machine_boots_another_kernel_without_its_firmware(
    made: DebianDisk, kernel: PackedKernel, machine: KernelStrategy
) -> None:
    machine.boot = "kexec"
    machine.transition("kernel")
    assert said(machine, "uname -r") == kernel.release
    # GRUB says which image it loaded, and was not asked.
    assert "BOOT_IMAGE" not in said(machine, "cat /proc/cmdline")
    machine.transition("restored")
    assert said(machine, "uname -r") == made.default_release


@further
def test_a_kernel_that_panics_gives_the_machine_back(
    made: DebianDisk, kernel: PackedKernel, machine: KernelStrategy
) -> None:
    machine.transition("own")
    # As a kernel whose initramfs was made wrong: it finds no root, panics, and reboots.
    said(machine, "printf '#!/bin/sh\\n: >\"$2\"\\n' >/usr/local/sbin/mkinitramfs")
    said(machine, "chmod 755 /usr/local/sbin/mkinitramfs")
    with pytest.raises(StrategyError) as caught:
        machine.transition("kernel")
    assert isinstance(caught.value.__cause__, WrongKernel)
    assert f"{made.default_release} (" in str(caught.value.__cause__)
    host = machine.host
    host.restore(BOOT_S)
    left = host.shell.run(["sh", "-c", f"ls -d /lib/modules/{kernel.release} {FOLDER}"])
    assert (left.status, left.output) == (2, b"")
