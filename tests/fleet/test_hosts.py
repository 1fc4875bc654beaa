"""tests/support/hosts: hosts in namespaces are like machines, and leave nothing on this one."""

import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fleet.conftest import PRETENDED
from support.hosts import Hosts, why_no_hosts
from support.hosts.gate import gate
from support.kernel_files import BANNER, RELEASE, bzimage, vmlinux

BOOT_ID = "/proc/sys/kernel/random/boot_id"
THIS = Path(BOOT_ID).read_text().strip()


def test_each_host_is_a_machine_of_its_own(hosts: Hosts) -> None:
    boots = [host.run("cat", BOOT_ID).stdout.strip() for host in hosts.values()]
    assert len({THIS, *boots}) == len(hosts) + 1
    assert [host.run("hostname").stdout.strip() for host in hosts.values()] == list(hosts)
    keys = [host.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout for host in hosts.values()]
    assert len(set(keys)) == len(hosts)


def test_what_is_written_on_a_host_is_there_alone(hosts: Hosts) -> None:
    one, other = hosts["host1"], hosts["host2"]
    name = "/usr/share/written-on-a-host"
    one.run("touch", name, "/root/here")
    assert other.run("ls", "/root").stdout == ""
    assert other.run("ls", name, check=False).returncode == 2
    assert not Path(name).exists()
    assert (one.disk / name[1:]).exists()


def test_a_power_cycle_keeps_the_disk_and_changes_the_boot_id(hosts: Hosts) -> None:
    host = hosts["host1"]
    host.run("sh", "-c", "touch /root/kept /run/lost /tmp/lost")
    before = host.run("cat", BOOT_ID).stdout
    host.cycle()
    host.await_ssh()
    assert host.run("cat", BOOT_ID).stdout != before
    assert host.run("sh", "-c", "ls /root/kept /run/lost /tmp/lost", check=False).stdout == (
        "/root/kept\n"
    )


def test_a_reboot_from_inside_changes_the_boot_id(hosts: Hosts) -> None:
    host = hosts["host2"]
    before = host.run("cat", BOOT_ID).stdout
    host.reboot()
    assert host.run("cat", BOOT_ID).stdout != before


def test_a_power_driver_s_commands_switch_it(hosts: Hosts) -> None:
    host = hosts["host3"]
    subprocess.run(host.power_command("off"), shell=True, check=True)
    with pytest.raises(AssertionError, match="does not answer"):
        host.await_ssh(deadline=0.5)
    subprocess.run(host.power_command("on"), shell=True, check=True)
    host.await_ssh()


def test_a_pulled_cable_loses_what_is_sent_and_ends_nothing(hosts: Hosts) -> None:
    host = hosts["host4"]
    session = ["ssh", "-F", str(hosts.ssh_config), "host4", "echo up; read line; echo $line"]
    with subprocess.Popen(session, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as connection:
        assert connection.stdout.readline() == b"up\n"
        host.pull_cable()
        connection.stdin.write(b"said meanwhile\n")
        connection.stdin.flush()
        assert select.select([connection.stdout], [], [], 0.3)[0] == []
        host.plug_cable()
        # TCP sends it again.
        assert connection.stdout.readline() == b"said meanwhile\n"


def test_a_small_disk_is_full_soon(hosts: Hosts) -> None:
    host = hosts["host7"]
    filled = host.run("sh", "-c", "head -c 60000000 /dev/zero >/var/tmp/filled", check=False)
    assert "No space left on device" in filled.stderr
    host.run("rm", "/var/tmp/filled")


def test_grub_reboot_pretends_another_kernel_once(hosts: Hosts, tmp_path: Path) -> None:
    host = hosts["host8"]
    default = host.run("uname", "-r").stdout.strip()
    assert default == PRETENDED
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(vmlinux()))
    copy = ["scp", str(image), "host8:/boot/vmlinuz-other"]
    subprocess.run(copy, env=hosts.environment, check=True, capture_output=True)
    entry = "menuentry 'other' --id 'other' {\n\tlinux /boot/vmlinuz-other ro\n}\n"
    host.run("sh", "-c", f"cat >/boot/grub/custom.cfg <<E\n{entry}E")
    host.run("grub-reboot", "other")
    host.reboot()
    for command in (
        "uname -r",
        "cat /proc/sys/kernel/osrelease",
        "/usr/bin/python3 -c 'import os; print(os.uname().release)'",
    ):
        assert host.run("sh", "-c", command).stdout.strip() == RELEASE
    build = host.run("uname", "-v").stdout.strip()
    assert build.startswith("#")
    assert build in BANNER
    host.cycle()
    host.await_ssh()
    assert host.run("uname", "-r").stdout.strip() == default


def test_a_host_can_t_change_this_machine_s_kernel(hosts: Hosts) -> None:
    host = hosts["host5"]
    for command in (
        "echo 1 >/proc/sys/kernel/printk",
        "echo b >/proc/sysrq-trigger && test -c /proc/sysrq-trigger",
        "touch /sys/kernel/here",
        "mount -o remount,rw /sys",
        "mount -t tracefs tracefs /mnt",
        "mknod /dev/disk b 259 0",
        "dmesg --console-off",
    ):
        refused = host.run("sh", "-c", f"{{ {command}; }} && echo done", check=False)
        done = refused.stdout == "done\n"
        # Where the kernel has sysrq, the host's is /dev/null.
        assert not done or "sysrq" in command, command


def test_a_gate_holds_a_run(hosts: Hosts) -> None:
    host = hosts["host6"]
    python = ["env", "LC_ALL=C", "python3", "-c", "import sys; print(sys.argv[1:], sys.executable)"]
    with gate(host) as closed, ThreadPoolExecutor() as pool:
        assert host.run(*python, "kvmtest", "restore").stdout.startswith("['kvmtest', 'restore'] ")
        run = pool.submit(host.run, *python, "kvmtest", "run", "-v")
        closed.await_run()
        assert not run.done()
        closed.let_pass()
        assert run.result().stdout == "['kvmtest', 'run', '-v'] /usr/bin/python3\n"
        assert host.run(*python, "kvmtest", "run", "").stdout.startswith("['kvmtest', 'run',")


PROGRAM = """
import os, sys
from pathlib import Path
from support.hosts import HostSpec, namespaced_hosts
with namespaced_hosts(Path(sys.argv[1]), [HostSpec("one"), HostSpec("two")]) as hosts:
    print(*(host.address for host in hosts.values()), (hosts.folder / "keeper.pid").read_text(),
          flush=True)
    hosts["one"].run("sh", "-c", "setsid sleep 9999 </dev/null >/dev/null 2>&1 &")
    print("running", flush=True)
    sys.stdin.read()
"""


def test_nothing_is_left_when_the_test_is_killed(tmp_path: Path) -> None:
    if missing := why_no_hosts():
        pytest.skip(missing)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    mounts = Path("/proc/self/mountinfo").read_text()
    with (
        subprocess.Popen(
            ["ip", "-oneline", "monitor", "link"], stdout=subprocess.PIPE, text=True
        ) as monitor,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "fleet")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as test,
    ):
        *addresses, keeper = test.stdout.readline().split()
        assert test.stdout.readline() == "running\n"
        cables = cables_of(addresses)
        assert len(cables) == 2
        # A process in a PID namespace that the keeper's death ends.
        pidfd = os.pidfd_open(int(keeper))
        test.send_signal(signal.SIGKILL)
        assert select.select([pidfd], [], [], 30)[0]
        os.close(pidfd)
        gone: set[str] = set()
        while gone != cables:
            line = monitor.stdout.readline()
            gone |= {name for name in cables if line.startswith("Deleted") and name in line}
        monitor.kill()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert list((tmp_path / "fleet/disks").iterdir()) == []


def cables_of(addresses: list[str]) -> set[str]:
    """Return the interfaces of this machine from which the addresses are reached."""
    routes = [
        subprocess.run(["ip", "route", "get", each], capture_output=True, text=True, check=True)
        for each in addresses
    ]
    return {route.stdout.split(" dev ")[1].split()[0] for route in routes}
