"""Hosts for a fleet's tests: real sshd's, each in namespaces of its own on this machine.

A host has its own network (one cable to this machine, which can be pulled), processes, mounts,
hostname, host keys and boot_id. It sees this machine's files; what it writes goes to a disk of its
own (an overlay on a tmpfs), and /root, /home and this checkout are empty there. /sys and /proc/sys
are read-only and it lacks the capabilities that change a kernel: nothing that happens on a host
outlives it. It lacks a network beyond its cable, too.

All of it belongs to one process, the keeper (keeper.py), which dies when the one that asked for the
hosts does, even by SIGKILL; the kernel then frees namespaces, mounts, disks and cables.
"""

import ipaddress
import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from support.hosts.openssh import sshd_files

__all__ = ["HostSpec", "Hosts", "NamespacedHost", "namespaced_hosts", "why_no_hosts"]

HERE = Path(__file__).parent
_CHECKOUT = HERE.parents[2]
#: RFC 2544 keeps it for tests of network devices; a fleet takes 16 addresses of it.
_NETWORK = ipaddress.ip_network("198.18.0.0/15")
_FLEET_PREFIX = 28
MOST = 8
_OF_GRUB = ("grub-reboot", "grub-editenv", "mkinitramfs")
_MENU = """\
if [ "${{next_entry}}" ]; then set default="${{next_entry}}"; fi
menuentry 'Debian GNU/Linux' {{
\tlinux\t/boot/vmlinuz-{release} root=/dev/vda1 ro quiet
\tinitrd\t/boot/initrd.img-{release}
}}
if [ -f ${{config_directory}}/custom.cfg ]; then source ${{config_directory}}/custom.cfg; fi
"""
#: Seconds within which a host that was powered on answers, on a busy machine.
UP_S = 30.0


@dataclass(frozen=True)
class HostSpec:
    """What a test asks of a host."""

    name: str
    disk: str = "50%"
    """The size of its disk, as mount(8) takes a tmpfs's."""

    kernel: str = ""
    """What uname(2) says of its default kernel's release; this machine's where empty.

    With it, the host pretends to have GRUB, and to boot the kernel of an entry in its custom.cfg
    once ``grub-reboot`` chose that one: uname(2) and uname(1) say so, and nothing else.
    """


def why_no_hosts() -> str:
    """Return what is missing for such hosts, or "" where nothing is."""
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    for program, package in {
        "ip": "iproute2",
        "ssh": "openssh-client",
        "unshare": "util-linux",
        "dpkg-deb": "dpkg",
    }.items():
        if shutil.which(program) is None:
            return f"{program} is missing; install {package}"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlayfs"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class NamespacedHost:
    """One host; its power and its cable are switched by the keeper."""

    name: str
    address: str
    folder: Path
    """The fleet's folder."""

    def on(self) -> None:
        """Press the power button; a host that is on stays on."""
        ask(self.folder, "on", self.name)

    def off(self) -> None:
        """Cut the power: nothing is said to anybody any more."""
        ask(self.folder, "off", self.name)

    def cycle(self) -> None:
        self.off()
        self.on()

    def pull_cable(self) -> None:
        """Lose what is sent to the host and by it, without a word to either."""
        ask(self.folder, "pull", self.name)

    def plug_cable(self) -> None:
        ask(self.folder, "plug", self.name)

    def die_for_good(self) -> None:
        """Cut the power, and let the power button do nothing from now on."""
        ask(self.folder, "kill", self.name)

    def refuse_reboots(self) -> None:
        """Let the host end when it is told to reboot, and not come back by itself."""
        ask(self.folder, "refuse", self.name)

    def boot_the_default_alone(self) -> None:
        """Let each kernel that ``grub-reboot`` chooses fail to start."""
        ask(self.folder, "misboot", self.name)

    def mend(self) -> None:
        """Take back refuse_reboots() and boot_the_default_alone()."""
        ask(self.folder, "mend", self.name)

    def lose_connections(self) -> None:
        """End all connections that the host has, and pull the cable."""
        self.run("pkill", "-KILL", "-f", "sshd: root@notty", check=False)
        self.pull_cable()

    def reboot(self) -> None:
        """Tell the host to reboot; return when it has, and takes connections."""
        first = self._first
        assert first is not None, f"{self.name} is off"
        self.run("reboot", check=False)
        # What has still to go down takes connections, too.
        first.wait(UP_S)
        self.await_ssh()

    def await_ssh(self, deadline: float = UP_S) -> None:
        """Return when the host takes connections."""
        end = time.monotonic() + deadline
        while True:
            try:
                socket.create_connection((self.address, 22), timeout=1).close()
            except OSError:
                assert time.monotonic() < end, f"{self.name} does not answer: {self.console}"
                time.sleep(0.02)
            else:
                return

    def run(
        self, *command: str, check: bool = True, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it over SSH; ``given`` is its input."""
        words = ["ssh", "-F", str(self.folder / "ssh_config"), self.name, shlex.join(command)]
        return subprocess.run(words, capture_output=True, text=True, check=check, input=given)

    def power_command(self, action: str) -> str:
        """Return the command that does ``action`` ("on", "off"), as a shell takes it."""
        return shlex.join(
            [sys.executable, str(HERE / "power.py"), str(self.folder), action, self.name]
        )

    @property
    def console(self) -> str:
        """What it printed since it was made: its sshd's log among it."""
        return (self.folder / f"{self.name}.console").read_text(errors="replace")

    @property
    def disk(self) -> Path:
        """What was written on the host, seen from here; what is in /run and /tmp is not there."""
        return Path(f"/proc/{self._keeper}/root{self.folder}/disks/{self.name}/upper")

    @property
    def root(self) -> Path:
        """The host's files as the host sees them; it is on."""
        assert self._first is not None, f"{self.name} is off"
        return Path(f"/proc/{self._first.pid}/root")

    @property
    def is_on(self) -> bool:
        return self._first is not None

    @property
    def _keeper(self) -> int:
        return int((self.folder / "keeper.pid").read_text())

    @property
    def _first(self) -> psutil.Process | None:
        """The host's first process."""
        for unshare in psutil.Process(self._keeper).children():
            with suppress(psutil.NoSuchProcess, IndexError):
                if unshare.cmdline()[-1] == self.name:
                    return unshare.children()[0]
        return None


@dataclass(frozen=True)
class Hosts(Mapping[str, NamespacedHost]):
    """The hosts by their names, and how to reach them."""

    folder: Path
    hosts: Mapping[str, NamespacedHost]

    def __getitem__(self, name: str) -> NamespacedHost:
        return self.hosts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)

    @property
    def ssh_config(self) -> Path:
        """For ssh's -F: the hosts by name and address, with their keys and the client's."""
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def key(self) -> Path:
        """The client's private key."""
        return self.folder / "client_key"

    @property
    def environment(self) -> dict[str, str]:
        """This process's, with an ssh, scp and sftp on the PATH that take the hosts' ssh_config."""
        return {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}


@contextmanager
def namespaced_hosts(folder: Path, specs: Sequence[HostSpec]) -> Iterator[Hosts]:
    """Start hosts and wait until they answer; end them all at the end.

    ``folder`` is empty, or made. Raises KvmtestError where there is no sshd to be had.
    """
    assert len(specs) <= MOST
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = _prepared(folder, specs)
    hosts = {
        each["name"]: NamespacedHost(each["name"], each["inside"], folder) for each in plan["hosts"]
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork"),
        *("--kill-child", "--mount-proc"),
        *(sys.executable, "-I", str(HERE / "keeper.py"), str(folder)),
    ]
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    try:
        ready = keeper.stdout.readline()
        assert ready == b"ready\n", (folder / "keeper.log").read_text()
        first = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()[0]
        (folder / "keeper.pid").write_text(first)
        for host in hosts.values():
            host.await_ssh()
        yield Hosts(folder, hosts)
    finally:
        keeper.kill()
        # The pipe ends when the keeper does, which unshare(1) kills as it dies.
        keeper.communicate()


def ask(folder: Path, action: str, name: str) -> None:
    """Have the keeper do something to a host; return when it is done."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # The path of a socket is at most 107 bytes long; that of a test's folder may be longer.
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            connection.connect(f"/proc/self/fd/{fd}/keeper.socket")
        finally:
            os.close(fd)
        connection.sendall(f"{action} {name}\n".encode())
        answer = connection.makefile().readline()
    assert answer == "done\n", f"{action} {name}: {answer or 'the keeper has gone'}"


def _prepared(folder: Path, specs: Sequence[HostSpec]) -> dict:
    """Make keys, configuration and the files that each host's disk starts with."""
    _make_key(folder / "client_key")
    sshd = sshd_files()
    addresses = list(_free_network())
    tag = f"{random.SystemRandom().randrange(2**16):04x}"
    hosts = []
    known, config = [], []
    for number, spec in enumerate(specs):
        outside, inside = (str(each) for each in addresses[2 * number : 2 * number + 2])
        skeleton = folder / "skeletons" / spec.name
        _make_skeleton(skeleton, spec, sshd, folder / "client_key.pub")
        host_key = (skeleton / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
        known.append(" ".join([f"{spec.name},{inside}", *host_key]))
        config.append(f"Host {spec.name}\n    HostName {inside}\n    HostKeyAlias {spec.name}\n")
        cable = f"kt{tag}h{number}"
        hosts.append({**asdict(spec), "outside": outside, "inside": inside, "cable": cable})
    (folder / "known_hosts").write_text("\n".join([*known, ""]))
    everyone = (
        f"Host {' '.join(each['name'] + ' ' + each['inside'] for each in hosts)}\n"
        f"    User root\n    IdentityFile {folder}/client_key\n    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {folder}/known_hosts\n    StrictHostKeyChecking yes\n"
        "    BatchMode yes\n"
    )
    (folder / "ssh_config").write_text("".join([*config, everyone]))
    (folder / "bin").mkdir()
    for program in ("ssh", "scp", "sftp"):
        wrapper = folder / "bin" / program
        real = shutil.which(program)
        wrapper.write_text(
            f'#!/bin/sh\nexec {real} -F {shlex.quote(str(folder))}/ssh_config "$@"\n'
        )
        wrapper.chmod(0o755)
    home = Path.home()
    empty = [str(_CHECKOUT), "/home", *([str(home)] if home != Path("/") else [])]
    return {"hosts": hosts, "empty": empty}


def _make_skeleton(skeleton: Path, spec: HostSpec, sshd: Path, client_key: Path) -> None:
    shutil.copytree(sshd, skeleton, symlinks=True)
    ssh = skeleton / "etc/ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    _make_key(ssh / "ssh_host_ed25519_key")
    (ssh / "authorized").write_bytes(client_key.read_bytes())
    (ssh / "sshd_config").write_text(
        "HostKey /etc/ssh/ssh_host_ed25519_key\nAuthorizedKeysFile /etc/ssh/authorized\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nUseDNS no\n"
        "KbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\nPidFile /run/sshd.pid\n"
        "MaxStartups 100\nLogLevel VERBOSE\n"
    )
    (skeleton / "etc/hostname").write_text(f"{spec.name}\n")
    accounts = Path("/etc/passwd").read_text()
    if not any(line.startswith("sshd:") for line in accounts.splitlines()):
        accounts += "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    (skeleton / "etc/passwd").write_text(accounts)
    programs = skeleton / "usr/sbin"
    for source in sorted((HERE / "programs").iterdir()):
        if source.name in _OF_GRUB and not spec.kernel:
            continue
        copy = programs / source.name
        copy.unlink(missing_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(0o755)
    if spec.kernel:
        library = skeleton / "usr/lib/kernel_release.so"
        source = HERE / "kernel_release.c"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, "-o", library, source, "-ldl"], check=True)
        (skeleton / "etc/ld.so.preload").write_text("/usr/lib/kernel_release.so\n")
        grub = skeleton / "boot/grub"
        grub.mkdir(parents=True)
        (grub / "grub.cfg").write_text(_MENU.format(release=spec.kernel))


def _make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _free_network() -> ipaddress.IPv4Network:
    """Return a network that no route of this machine leads to, but the default one."""
    shown = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "table", "all"],
        capture_output=True,
        check=True,
    )
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in json.loads(shown.stdout)
        if route["dst"] != "default" and not route["dst"].startswith("0.")
    ]
    free = [
        network
        for network in _NETWORK.subnets(new_prefix=_FLEET_PREFIX)
        if not any(network.overlaps(each) for each in taken)
    ]
    return random.SystemRandom().choice(free)
