"""/dev/kvm is opened, and each way in which it does not open is told in words that help."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stand_in import as_nobody, intel_host, let_everyone_in, need_root, stand_in, write

from kvmtest.checks import kvm_device
from kvmtest.checks.preconditions import PRECONDITIONS, lacking, witness_lacks
from kvmtest.cli import main
from kvmtest.diagnosis import diagnose
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.kvm import KvmUnavailable
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES

MAKE = "mknod /dev/kvm c 10 232"
GIVE = "start the container with --device /dev/kvm"


def asked(machine: Machine) -> Missing:
    missing = PRECONDITIONS["kvm"](machine)
    assert missing is not None
    assert "\n" not in str(missing)
    return missing


def without_kvm(root: Path) -> Tree:
    tree = intel_host(root)
    for name in ("kvm", "kvm_intel"):
        shutil.rmtree(tree.path(f"/sys/module/{name}"))
    return tree


# A stand-in tree answers as its machine would, up to a device that opens.


def test_a_container_without_the_device_is_told_how_to_have_it(tmp_path: Path) -> None:
    missing = asked(Machine(intel_host(tmp_path)))
    assert missing.what.startswith("there is no /dev/kvm although kvm_intel runs")
    assert "container" in missing.what
    assert missing.remedy == f"{GIVE}, or as root: {MAKE}"


def test_a_built_in_kvm_in_a_container_has_not_refused_the_machine(tmp_path: Path) -> None:
    tree = intel_host(tmp_path)
    tree.path("/sys/module/kvm_intel/initstate").unlink()
    assert "refused this machine" in asked(Machine(tree)).what
    write(tree, "/sys/class/misc/kvm/dev", "10:232\n")
    assert asked(Machine(tree)).remedy.startswith(GIVE)


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        ({}, "KVM is not loaded", "modprobe kvm_intel"),
        (
            {"/boot/config-6.1.0-37-amd64": "CONFIG_MODULES=y\n"},
            "is built without CONFIG_KVM",
            "boot a kernel built with CONFIG_KVM_INTEL",
        ),
        (
            {"/boot/config-6.1.0-37-amd64": "CONFIG_SMP=y\n"},
            "is built without CONFIG_KVM",
            "boot a kernel built with CONFIG_KVM_INTEL=y",
        ),
        (
            {"/proc/cpuinfo": "processor: 0\nvendor_id: GenuineIntel\nflags: hypervisor\n"},
            "the hypervisor above gives this virtual machine no vmx",
            "turn on nested virtualisation for it, or run on bare metal",
        ),
        (
            {"/proc/cpuinfo": "processor: 0\nvendor_id: HygonGenuine\nflags: fpu\n"},
            "the CPU shows no svm",
            "turn on virtualisation (SVM) in the firmware setup",
        ),
    ],
)
def test_without_kvm_the_reason_is_the_kernel_s_or_the_cpu_s(
    tmp_path: Path, files: dict[str, str], what: str, remedy: str
) -> None:
    tree = without_kvm(tmp_path)
    stand_in(tmp_path, files)
    missing = asked(Machine(tree))
    assert missing.what.startswith("there is no /dev/kvm: ")
    assert what in missing.what
    assert missing.remedy == remedy


@pytest.fixture
def dead_node(tmp_path: Path) -> Callable[[Tree], Path]:
    """Make a node of a device that nobody drives."""
    need_root()

    def make(tree: Tree) -> Path:
        path = tree.path("/dev/kvm")
        taken = {int(line.split()[0]) for line in Path("/proc/misc").read_text().splitlines()}
        minor = next(number for number in range(100, 255) if number not in taken)
        try:
            os.mknod(path, 0o20666, os.makedev(10, minor))
            os.close(os.open(path, os.O_RDWR))
        except PermissionError as error:
            pytest.skip(f"needs to make and open device nodes: {error.strerror}")
        except OSError:
            return path
        pytest.skip(f"the device 10:{minor} opens, which nobody drives")

    return make


def test_a_node_without_a_driver_is_no_kvm(
    tmp_path: Path, dead_node: Callable[[Tree], Path]
) -> None:
    tree = intel_host(tmp_path / "loaded")
    dead_node(tree)
    missing = asked(Machine(tree))
    assert missing.what == (
        "no KVM stands behind /dev/kvm (ENODEV) although kvm_intel runs: the node is of another "
        "device"
    )
    assert missing.remedy == f"as root: rm /dev/kvm; {MAKE}"
    bare = without_kvm(tmp_path / "bare")
    dead_node(bare)
    missing = asked(Machine(bare))
    assert missing.what.startswith("no KVM stands behind /dev/kvm (ENODEV): KVM is not loaded")
    assert missing.remedy == "modprobe kvm_intel"


def test_a_device_that_is_not_kvm_s_is_told(tmp_path: Path) -> None:
    need_root()
    tree = intel_host(tmp_path)
    os.mknod(tree.path("/dev/kvm"), 0o20666, os.makedev(1, 3))  # /dev/null's number
    missing = asked(Machine(tree))
    assert "not a KVM device" in missing.what
    assert MAKE in missing.remedy


def test_another_api_has_its_own_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def __init__(self, path: Path) -> None:
            raise KvmUnavailable(f"{path}: API version 11, not 12; use a kernel after 2.6.22")

    monkeypatch.setattr(kvm_device, "System", Old)
    assert asked(Machine(Tree())) == Missing(
        "/dev/kvm: API version 11, not 12", "use a kernel after 2.6.22"
    )


def test_without_permission_the_owner_is_named(tmp_path: Path) -> None:
    need_root()
    tree = intel_host(tmp_path)
    os.mknod(tree.path("/dev/kvm"), 0o20600, os.makedev(1, 3))
    let_everyone_in(tmp_path)
    with as_nobody():
        missing = asked(Machine(tree))
    assert missing == Missing(
        "no permission for /dev/kvm", "run as root, or join the group that owns it"
    )


# The live machine, whose open(2) answers as another's would

REFUSALS = [
    (errno.ENOENT, "there is no /dev/kvm"),
    (errno.ENODEV, "no KVM stands behind /dev/kvm (ENODEV)"),
    (errno.ENXIO, "no KVM stands behind /dev/kvm (ENXIO)"),
    (errno.EBUSY, "/dev/kvm does not open (EBUSY): another hypervisor"),
    (errno.EPERM, "/dev/kvm does not open (EPERM): the container's device rules"),
    (errno.EMFILE, "/dev/kvm does not open (EMFILE): too many files"),
    (errno.EIO, "/dev/kvm does not open (EIO): Input/output error"),
]


def refuse_kvm(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    opened = os.open

    def refusing(path: str | Path, *arguments: int, **more: int) -> int:
        if str(path) == "/dev/kvm":
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize(("number", "what"), REFUSALS)
def test_every_refusal_of_open_is_a_reason_and_no_error(
    monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    refuse_kvm(monkeypatch, number)
    missing = asked(Machine(Tree()))
    assert missing.what.startswith(what)
    assert missing.remedy
    for prop in PROPERTIES:
        found = lacking(Machine(Tree()), prop)
        assert "kvm" not in prop.needs or missing in found
    assert PRECONDITIONS["kvm-stats"](Machine(Tree())) is None
    assert missing in witness_lacks(Machine(Tree()), "guest")


@pytest.mark.parametrize(("number", "what"), REFUSALS)
def test_doctor_never_aborts_at_dev_kvm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, what: str
) -> None:
    refuse_kvm(monkeypatch, number)
    assert main(["doctor", "--seconds", "0"]) == 0
    assert "can't be decided here" in capsys.readouterr().out
    told = diagnose(Machine(Tree()), 0).properties["any.no-warnings"]
    assert any(each.what.startswith(what) for each in told)


def spoilt(tree: Tree, name: str) -> None:
    """Have a file say nonsense, or a folder stand in its place."""
    path = tree.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        path.write_bytes(b"\xff\0nonsense\n")
    else:
        path.mkdir()


@pytest.mark.parametrize(
    "name",
    [
        "/dev/kvm",
        "/proc/cpuinfo",
        "/proc/mounts",
        "/proc/sys/kernel/osrelease",
        "/sys/devices/cpu/freeze_on_smi",
        "/sys/devices/system/cpu/online",
        "/sys/bus/event_source/devices/cpu/type",
        "/sys/bus/event_source/devices/cpu/cpus",
        "/sys/module/kvm_intel/initstate",
        "/sys/module/kvm/parameters/enable_pmu",
        "/sys/kernel/btf/vmlinux",
        "/sys/kernel/btf/kvm_intel",
        "/sys/kernel/security/lockdown",
        "/sys/kernel/tracing/kprobe_events",
        "/sys/firmware/acpi/tables/FACP",
        "/lib/modules/6.1.0-37-amd64/modules.dep",
        "/proc/config.gz",
        "/dev/cpu/0/msr",
        "/dev/kmsg",
    ],
)
def test_doctor_never_aborts_at_a_damaged_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    tree = intel_host(tmp_path)
    spoilt(tree, name)
    assert main(["doctor", "--seconds", "0.01", "--root", str(tmp_path)]) == 0
    assert "can't be decided here" in capsys.readouterr().out
