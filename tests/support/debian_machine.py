"""A Debian on a disk, which QEMU boots without KVM: GRUB, systemd, sshd, Python; made once.

Its maker needs root and a chroot, whose mounts are in a namespace of their own; the boot loader is
installed by the machine itself, at its first boot.
"""

import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.digest import of_parts

__all__ = [
    "CPU",
    "EXTRA",
    "MEMORY",
    "DebianDisk",
    "debian_disk",
    "free_port",
    "nic",
    "why_no_machine",
]

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PROGRAMS = {
    "debootstrap": "debootstrap",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
_PACKAGES = (
    *("systemd-sysv", "udev", "kmod", "openssh-server", "python3", "initramfs-tools"),
    *("grub-pc-bin", "grub2-common", "kexec-tools", "linux-image-amd64"),
)
_SIZE = 3 << 30
_SECTOR = 512
_FIRST_SECTOR = 2048

#: SVM as TCG has it; without AVX, as programs inside would choose code that is slow to emulate.
CPU = "EPYC,+svm,+npt,-avx,-avx2,-fma,-f16c"
MEMORY = "1G"
#: What the machine has besides a disk; the network is the user's (slirp), without the outside.
EXTRA = "-no-user-config -nodefaults -accel tcg,thread=multi -vga none"

# Words: the new root, the mirror, the suite.
_MAKE = f"""
set -eu
root=$1
debootstrap --variant=minbase --include={",".join(_PACKAGES)} "$3" "$root" "$2"
echo "/dev/vda1 / ext4 errors=remount-ro 0 1" >"$root/etc/fstab"
echo machine >"$root/etc/hostname"
cat >"$root/etc/systemd/network/wired.network" <<'END'
[Match]
Type=ether
[Network]
Address=10.0.2.15/24
END
cat >"$root/etc/default/grub" <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_TERMINAL=console
GRUB_CMDLINE_LINUX="console=ttyS0"
END
sed -i s/^MODULES=.*/MODULES=list/ "$root/etc/initramfs-tools/initramfs.conf"
sed -i s/^COMPRESS=.*/COMPRESS=gzip/ "$root/etc/initramfs-tools/initramfs.conf"
printf 'virtio_pci\\nvirtio_blk\\next4\\n' >>"$root/etc/initramfs-tools/modules"
mkdir -m 700 -p "$root/root/.ssh"
cp "$root.key.pub" "$root/root/.ssh/authorized_keys"
chroot "$root" systemctl --quiet enable systemd-networkd ssh
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
mount -t proc proc "$root/proc"
chroot "$root" update-initramfs -u
umount "$root/proc"
cat >"$root/install-grub" <<'END'
#!/bin/sh
mount -o remount,rw /
grub-install /dev/vda && update-grub && rm /install-grub && echo GRUB-IS-INSTALLED
for key in s u o; do echo $key >/proc/sysrq-trigger; done
sleep 60
END
chmod 755 "$root/install-grub"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
cp "$root"/boot/vmlinuz-* "$root.vmlinuz"
cp "$root"/boot/initrd.img-* "$root.initrd"
cp "$root/etc/ssh/ssh_host_ed25519_key.pub" "$root.host-key"
"""


def why_no_machine() -> str:
    """Return what is missing for such a machine, or "" where nothing is."""
    if os.geteuid() != 0:
        return "making a Debian needs root"
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=path) is None:
            return f"{program} is missing; install {package}"
    return ""


@dataclass(frozen=True)
class DebianDisk:
    """The folder of a disk that was made, which nobody writes to, and its keys."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.raw"

    @property
    def key(self) -> Path:
        """The private key that root there believes."""
        return self.folder / "key"

    @property
    def default_release(self) -> str:
        return (self.folder / "release").read_text()

    def new_disk(self, path: Path) -> Path:
        """Copy the disk: what is written to it stays there, also when QEMU ends."""
        command = ["cp", "--sparse=always", "--reflink=auto", str(self.disk), str(path)]
        subprocess.run(command, check=True)
        return path

    def write_known_hosts(self, path: Path, port: int) -> Path:
        """Write the machine's host key as that of a port of this machine."""
        key = (self.folder / "host-key").read_text().split()[:2]
        path.write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
        return path


def debian_disk(cache: Cache, on_step: Callable[[str], None]) -> DebianDisk:
    """Return the disk, which takes three minutes to make; raises EnvironmentUnfit."""
    digest = of_parts(_MAKE, SUITE, MIRROR, str(_SIZE), CPU)

    def make(entry: Path) -> None:
        try:
            with urlopen(f"{MIRROR}/dists/{SUITE}/Release", timeout=30):
                pass
        except OSError as error:
            raise EnvironmentUnfit(f"{MIRROR} can't be reached: {error}") from None
        on_step(f"making a Debian ({SUITE}) for QEMU")
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kvmtest-") as folder:
            _make(Path(folder) / "root", entry)

    return DebianDisk(cache.entry("debian-disk", digest, make))


def _make(root: Path, entry: Path) -> None:
    key = entry / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    shutil.copyfile(key.with_suffix(".pub"), f"{root}.key.pub")
    _run(
        *("unshare", "--mount", "--propagation", "private"),
        *("sh", "-c", _MAKE, "sh", str(root), MIRROR, SUITE),
    )
    shutil.copyfile(f"{root}.host-key", entry / "host-key")
    disk = entry / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(_SIZE)
        # One active partition of Linux, in a master boot record.
        sectors = _SIZE // _SECTOR - _FIRST_SECTOR
        places = (b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _FIRST_SECTOR, sectors)
        file.seek(0x1BE)
        file.write(struct.pack("<B3sB3sII", 0x80, *places))
        file.seek(0x1FE)
        file.write(b"\x55\xaa")
    offset = _FIRST_SECTOR * _SECTOR
    size = f"{(_SIZE - offset) >> 10}k"
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(root), "-E", f"offset={offset}", str(disk), size)
    console = _run(
        *("qemu-system-x86_64", "-no-reboot", "-display", "none", "-vga", "none"),
        *("-no-user-config", "-nodefaults", "-accel", "tcg", "-cpu", CPU, "-m", MEMORY),
        *("-drive", f"if=virtio,format=raw,cache=unsafe,file={disk}", "-serial", "stdio"),
        *("-kernel", f"{root}.vmlinuz", "-initrd", f"{root}.initrd"),
        *("-append", "root=/dev/vda1 ro console=ttyS0 init=/install-grub"),
    )
    if "GRUB-IS-INSTALLED" not in console:
        raise EnvironmentUnfit(f"GRUB was not installed: {console[-2000:]}")
    (image,) = (root / "boot").glob("vmlinuz-*")
    (entry / "release").write_text(image.name.removeprefix("vmlinuz-"))


def _run(*command: str) -> str:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": path, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1200,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise EnvironmentUnfit(f"{command[0]} failed: {last}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def nic(port: int) -> str:
    """Return QEMU's -nic whose port of this machine leads to the machine's sshd."""
    return f"user,restrict=on,model=virtio,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22"
