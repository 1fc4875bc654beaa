"""The keeper of namespaced hosts: ``keeper.py FOLDER``, as the first process of a PID namespace.

It holds the hosts' disks and networks, starts and ends them, and does so on request over the socket
keeper.socket: a line ``ACTION HOST`` gets the line ``done``, or what went wrong. With its end the
kernel ends everything in its namespaces. It has only Python's own modules.
"""

import json
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

HERE = Path(__file__).parent
ACTIONS = ("on", "off", "pull", "plug", "kill", "refuse", "misboot", "mend")
DEFAULT_VERSION = "#1 SMP Debian"
#: How the first process of a host ends when the host is told to reboot.
REBOOT = 64


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL)


class Host:
    """A host: its disk and its network live as long as the keeper, its processes while it is on."""

    def __init__(self, folder: Path, spec: dict, empty: list[str]) -> None:
        self.name, self.cable = spec["name"], spec["cable"]
        self.folder, self.spec, self.empty = folder, spec, empty
        self.disk = folder / "disks" / self.name
        self.network = folder / "disks" / f"{self.name}.network"
        self.process: subprocess.Popen | None = None
        self.comes_back = self.answers_button = self.boots_what_is_asked = True

    def make(self) -> None:
        """Make the disk and the cable."""
        self.disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={self.spec['disk']},mode=755", "disk", self.disk)
        for name in ("upper", "work", "root"):
            (self.disk / name).mkdir()
        upper = self.disk / "upper"
        run("cp", "-a", f"{self.folder}/skeletons/{self.name}/.", upper)
        run("chown", "-R", "0:0", upper)
        for path in self.empty:
            (upper / path[1:]).mkdir(parents=True, exist_ok=True)
            # What this machine has there is not on the host.
            os.setxattr(upper / path[1:], "trusted.overlay.opaque", b"y")
        self.network.touch()
        run("unshare", f"--net={self.network}", "true")
        inside = self.in_network("ip")
        run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", f"{self.cable}i")
        with subprocess.Popen(
            [*self.in_network("cat"), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            # The kernel takes a network namespace by a process in it.
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            holder.stdout.read(1)
            run("ip", "link", "set", f"{self.cable}i", "netns", holder.pid, "name", "eth0")
            holder.stdin.close()
        run("ip", "address", "add", f"{self.spec['outside']}/31", "dev", self.cable)
        run("ip", "link", "set", self.cable, "up")
        run(*inside, "address", "add", f"{self.spec['inside']}/31", "dev", "eth0")
        run(*inside, "link", "set", "lo", "up")

    def in_network(self, *command: object) -> list[object]:
        return ["nsenter", f"--net={self.network}", *command]

    def plug(self) -> None:
        run(*self.in_network("ip", "link", "set", "eth0", "up"))

    def pull(self) -> None:
        run(*self.in_network("ip", "link", "set", "eth0", "down"))

    def on(self) -> None:
        if self.process is not None or not self.answers_button:
            return
        self.plug()
        if self.spec["kernel"]:
            for name, text in zip(("release", "version"), self.boots(), strict=True):
                (self.disk / f"kernel_{name}").write_text(f"{text}\n")
        (self.disk / "boot_id").write_text(f"{uuid4()}\n")
        with (self.folder / f"{self.name}.console").open("ab") as console:
            self.process = subprocess.Popen(
                [
                    *self.in_network("unshare", "--mount", "--propagation", "private", "--pid"),
                    *("--uts", "--ipc", "--fork", "--kill-child"),
                    *("sh", str(HERE / "boot.sh"), str(self.disk), self.name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def off(self) -> None:
        # First the cable: nobody hears the host's connections end.
        self.pull()
        self.end()

    def end(self) -> None:
        """End what runs on the host; return when nothing does."""
        if self.process is None:
            return
        first = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in first.split():
            # unshare(1) ends when this first process of the namespace has, and all others with it.
            os.kill(int(pid), signal.SIGKILL)
        self.process.wait()
        self.process = None

    def kill(self) -> None:
        self.answers_button = False
        self.off()

    def refuse(self) -> None:
        self.comes_back = False

    def misboot(self) -> None:
        self.boots_what_is_asked = False

    def mend(self) -> None:
        self.comes_back = self.boots_what_is_asked = True

    def boots(self) -> tuple[str, str]:
        """Return release and version of the kernel that it pretends to boot.

        That is the default, but once what the boot loader was told: as GRUB does, the entry is
        forgotten first. A kernel that is asked for in vain leads to the default, too: it panics.
        """
        grub = self.disk / "upper/boot/grub"
        environment, custom = grub / "grubenv", grub / "custom.cfg"
        if environment.exists():
            lines = environment.read_text().splitlines()
            told = [line for line in lines if line.startswith("next_entry=")]
            environment.write_text("".join(f"{line}\n" for line in lines if line not in told))
            entries = custom.read_text() if custom.exists() else ""
            entry = told[0].partition("=")[2] if told else ""
            linux = rf"^menuentry '{re.escape(entry)}'.*?^\s*linux\s+(\S+)"
            images = re.findall(linux, entries, re.MULTILINE | re.DOTALL) if entry else []
            if images and self.boots_what_is_asked:
                image = self.disk / "upper" / images[0].lstrip("/")
                return version(image.read_bytes())
        return self.spec["kernel"], DEFAULT_VERSION

    def look(self) -> None:
        """Start the host again where it has ended to reboot."""
        if self.process is None or self.process.poll() is None:
            return
        reboots = self.process.returncode == REBOOT and self.comes_back
        self.process = None
        self.pull()
        if reboots:
            self.on()


def version(image: bytes) -> tuple[str, str]:
    """Return release and version of a bzImage (Documentation/arch/x86/boot.rst)."""
    (at,) = struct.unpack_from("<H", image, 0x20E)
    banner = image[at + 0x200 :].partition(b"\0")[0].decode()
    return banner.split()[0], banner[banner.index("#") :]


def main() -> None:
    folder = Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "disks").mkdir()
    # The disks' mount points are of this mount namespace, as are those of the networks.
    run("mount", "-t", "tmpfs", "-o", "mode=755", "disks", folder / "disks")
    hosts = {spec["name"]: Host(folder, spec, plan["empty"]) for spec in plan["hosts"]}
    os.chdir(folder)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind("keeper.socket")
    server.listen(64)
    # A child's end wakes the keeper.
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for host in hosts.values():
        host.make()
        host.on()
    os.write(1, b"ready\n")
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is woken:
                with suppress(BlockingIOError):
                    woken.recv(4096)
                for host in hosts.values():
                    host.look()
            else:
                serve(server.accept()[0], hosts)


def serve(connection: socket.socket, hosts: dict[str, Host]) -> None:
    with connection, suppress(OSError):
        connection.settimeout(10)
        try:
            action, name = connection.makefile().readline().split()
            if action not in ACTIONS:
                raise ValueError(action)
            getattr(hosts[name], action)()
            answer = "done"
        except Exception as error:
            answer = repr(error)
        connection.sendall(f"{answer}\n".encode())


main()
