"""A stand-in tree: the files of an Intel host, as far as kvmtest looks at them."""

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import kvmtest
from kvmtest.host.changes.journal import RECORD
from kvmtest.host.changes.lock import LOCK
from kvmtest.host.facts.fadt import Fadt
from kvmtest.host.facts.msr import IA32_PERF_CAPABILITIES
from kvmtest.host.tree import Tree
from kvmtest.kernels.btf import Btf
from support.btf_blob import Blob

KNOB = "/sys/devices/cpu/freeze_on_smi"
KMSG = "/dev/kmsg"
BTF = "/sys/kernel/btf/vmlinux"
KVM_INTEL_BTF = "/sys/kernel/btf/kvm_intel"
NOBODY = 65534
PACKAGE = Path(kvmtest.__file__).parent

VERSION = (
    "Linux version 6.1.0-37-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) "
    "12.2.0, GNU ld 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (2025-05-22)"
)
PROCESSOR = """\
processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Stand-in
stepping\t: 8
microcode\t: 0x2b000603
flags\t\t: msr vmx rtm
vmx flags\t: ept unrestricted_guest

"""


def write(tree: Tree, name: str, content: str | bytes) -> Path:
    """Write a file of the tree, with its folders."""
    path = tree.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def stand_in(root: Path, files: Mapping[str, str | bytes]) -> Tree:
    """Make a tree of these files, by their absolute names."""
    tree = Tree(root)
    for name, content in files.items():
        write(tree, name, content)
    return tree


def kvm_btf(
    *members: str,
    functions: bool = False,
    kvm: bool = True,
    over: bytes | None = None,
    **flags: int,
) -> bytes:
    """Return BTF whose struct kvm_x86_ops has the members, and whose run flags are these.

    With ``functions`` kvm_intel's are in it too: it is built in. Without ``kvm`` it has no function
    of KVM's: the kernel's headers alone bring the types in. It is split BTF ``over`` another's.
    """
    blob = Blob()
    if over is not None:
        base = Btf(over)
        blob.strings = bytearray()
        blob.strings_start, blob.next_id = base._strings_end, base._end_id
    u64 = blob.int_("u64", 8)
    if kvm:
        blob.function("kvm_vcpu_ioctl", u64, ("filp", u64))
    if members:
        _ops(blob, u64, *members)
    if functions:
        blob.function("vmx_vcpu_run", u64, ("vcpu", u64), ("run_flags", u64))
    if flags:
        blob.enum("kvm_x86_run_flags", signed=False, **flags)
    return blob.bytes()


def _ops(blob: Blob, u64: int, *members: str) -> None:
    blob.struct_("kvm_x86_ops", *((name, u64, 64 * at) for at, name in enumerate(members)))


def kvm_intel_btf(
    vmlinux: bytes,
    *parameters: str,
    ops: Sequence[str] = (),
    function: str = "vmx_vcpu_run",
) -> bytes:
    """Return split BTF over ``vmlinux`` in which ``function`` has the parameters.

    With ``ops`` it has a struct kvm_x86_ops of its own, with these members.
    """
    base = Btf(vmlinux)
    blob = Blob()
    blob.strings = bytearray()
    blob.strings_start, blob.next_id = base._strings_end, base._end_id
    u64 = blob.int_("u64", 8)
    blob.function(function, u64, *((name, u64) for name in parameters))
    if ops:
        _ops(blob, u64, *ops)
    return blob.bytes()


# Every MSR is 0 but IA32_PERF_CAPABILITIES, which has FREEZE_WHILE_SMM: bit 12.
FREEZE_CAPABLE = bytes(IA32_PERF_CAPABILITIES) + (1 << 12).to_bytes(8, "little")

FIXED = kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4)
UNFIXED = kvm_btf("vcpu_run")


def intel_host(root: Path, *, cpus: int = 2, knob: int = 1, btf: bytes = FIXED) -> Tree:
    """Make an Intel host with a PMU, the knob, kvm_intel and MSRs that stand still."""
    root.mkdir(parents=True, exist_ok=True)
    files: Mapping[str, str | bytes] = {
        "/proc/cpuinfo": "".join(PROCESSOR.format(number=number) for number in range(cpus)),
        "/proc/version": VERSION,
        "/proc/mounts": "proc /proc proc rw 0 0\n",
        "/proc/sys/kernel/osrelease": "6.1.0-37-amd64\n",
        "/proc/sys/kernel/random/boot_id": "00000000-0000-4000-8000-000000000000\n",
        "/sys/devices/system/cpu/online": f"0-{cpus - 1}\n",
        "/sys/devices/system/cpu/possible": f"0-{cpus - 1}\n",
        KNOB: f"{knob}\n",
        "/sys/bus/event_source/devices/cpu/type": "4\n",
        "/sys/bus/event_source/devices/cpu/format/event": "config:0-7\n",
        "/sys/module/kvm/parameters/enable_pmu": "Y\n",
        "/sys/module/kvm_intel/initstate": "live\n",
        "/sys/module/kvm_intel/refcnt": "0\n",
        "/sys/module/kvm_intel/parameters/nested": "Y\n",
        "/sys/module/kvm_intel/parameters/unrestricted_guest": "Y\n",
        "/sys/module/kvm_intel/parameters/dump_invalid_vmcs": "N\n",
        BTF: btf,
        KVM_INTEL_BTF: kvm_intel_btf(FIXED, "vcpu", "run_flags") if btf == FIXED else b"",
        KMSG: "",
        "/dev/cpu/0/msr": FREEZE_CAPABLE,
    }
    tree = stand_in(root, files)
    for number in range(1, cpus):
        tree.path(f"/dev/cpu/{number}").symlink_to("0")
    return tree


def snapshot(tree: Tree) -> dict[str, bytes]:
    """Return every file of the tree but the lock, which stays by design."""
    files = {str(p.relative_to(tree.root)): p for p in tree.root.rglob("*") if p.is_file()}
    return {n: p.read_bytes() for n, p in files.items() if n not in (LOCK[1:], f"{RECORD[1:]}.new")}


FACP = "/sys/firmware/acpi/tables/FACP"
XEON = Fadt(0xB2, 0xA0, 0xA1, 0xF2, 0x80, 0x85, 0x20)


def fadt_table(fadt: Fadt, length: int = 276) -> bytes:
    """Return the bytes of an intact FACP that says ``fadt``."""
    data = bytearray(length)
    data[:8] = b"FACP" + struct.pack("<I", length)
    data[48:52] = struct.pack("<I", fadt.smi_cmd)
    data[52:56] = bytes([fadt.acpi_enable, fadt.acpi_disable, fadt.s4bios_req, fadt.pstate_cnt])
    data[95] = fadt.cst_cnt
    data[112:116] = struct.pack("<I", fadt.flags)
    data[9] = -sum(data) & 0xFF
    return bytes(data)


# The command


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, or minus the signal that killed it."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that stderr must be, without the program's name."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("kvmtest: "), self.err
        return self.err.removeprefix("kvmtest: ").rstrip("\n")


def environment(**more: str) -> dict[str, str]:
    """Return this environment without what changes the output, and with ``more``."""
    left_out = ("PYTHON", "PYTEST_", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_")
    mine = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return {**mine, "PYTHONPATH": str(PACKAGE.parent), **more}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "kvmtest", *map(str, words)]


def run_kvmtest(
    *words: object,
    prefix: Sequence[str] = (),
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> Ended:
    """Run the command to its end; whatever it prints, it is no traceback."""
    done = subprocess.run(
        [*prefix, *command(*words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment() if env is None else env,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr + done.stdout
    return Ended(done.returncode, done.stdout, done.stderr)


def await_free(tree: Tree) -> None:
    """Block until nobody holds the tree's lock: no run and no guardian lives."""
    path = tree.path(LOCK)
    if path.exists():
        subprocess.run(["flock", "--timeout", "60", str(path), "true"], check=True)


def need_free_machine() -> None:
    """Wait for the end of whoever runs kvmtest on this machine itself; skip where they go on."""
    try:
        await_free(Tree())
    except subprocess.CalledProcessError:
        pytest.skip(f"needs this machine's lock, which another run holds ({LOCK})")


def need_kvm() -> None:
    """Skip the test where this machine has no KVM that we may use."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"needs /dev/kvm: {error.strerror}")


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without any rights for a while."""
    need_root()
    groups = os.getgroups()
    os.setgroups([])
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setgroups(groups)


def let_everyone_in(folder: Path) -> None:
    """Let other users look into a test's folder, and reach it."""
    for path in (folder, *folder.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(path.stat().st_mode | 0o755)


def small_disk(at: Path, size: str = "64k") -> None:
    """Mount a small tmpfs; the test unmounts it. Skips where that is not permitted."""
    need_root()
    at.mkdir()
    mount: Sequence[str] = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a tmpfs: {done.stderr.strip()}")


def fill(folder: Path) -> None:
    """Fill the disk that the folder is on."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0
