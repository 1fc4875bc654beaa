"""kvmtest/lab/saved_machine.py: what is made once, and what makes it be made anew."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.kernel_files import BANNER, RELEASE, bzimage, module, vmlinux
from support.lab_emulator import Emulator

from kvmtest.kernels import bzimage as bzimages
from kvmtest.lab.emulators.bochs import configuration
from kvmtest.lab.emulators.bochs.stock import StockBochs
from kvmtest.lab.emulators.emulator import Hardware
from kvmtest.lab.image import contents as image
from kvmtest.lab.image import disk, flat_kernel, payload, userland
from kvmtest.target import TargetFailed

Patch = pytest.MonkeyPatch
MODULES = f"lib/modules/{RELEASE}/kernel/arch/x86/kvm"


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: Patch) -> Emulator:
    return Emulator.install(tmp_path, monkeypatch)


def job() -> dict[str, bytes]:
    return payload.job(["run"], {})


def test_a_machine_is_booted_once_and_kvmtest_started_in_it_once(emulator: Emulator) -> None:
    outcome = emulator.machine().run(job(), 60)
    assert set(outcome.files) == {"evidence.json"}
    assert emulator.starts() == ["booted", "saved as booted", "ready", "saved as ready"]
    emulator.machine().run(job(), 60)
    assert emulator.starts() == ["saved as ready"]


def test_a_cold_machine_is_booted_each_time_and_neither_saved_nor_restored(
    emulator: Emulator,
) -> None:
    for _ in range(2):
        outcome = emulator.machine(cold=True).run(job(), 60)
        assert list(outcome.stages) == ["booted", "ready", "awake", "running", "end"]
    assert emulator.starts() == ["cold", "cold"]
    assert not (emulator.cache.root / "booted").exists()


def test_machines_of_an_emulator_that_does_not_save_are_cold(emulator: Emulator) -> None:
    machine = emulator.machine()
    machine.emulator = StockBochs(emulator.folder / "bochs", "2.7", "digest")
    machine.run(job(), 60)
    assert emulator.starts() == ["cold"]
    assert not machine.is_restored


def test_a_machine_that_fails_to_boot_is_not_kept(emulator: Emulator) -> None:
    (emulator.folder / "panic").touch()
    with pytest.raises(TargetFailed, match="Kernel panic - not syncing: no init"):
        emulator.machine().booted()
    assert list((emulator.cache.root / "booted").iterdir()) == []
    (emulator.folder / "panic").unlink()
    emulator.machine().booted()
    assert emulator.starts() == ["booted"]


def test_modules_come_without_their_debug_info(emulator: Emulator) -> None:
    if not shutil.which("strip"):
        pytest.skip("needs strip, of binutils")
    path = emulator.tree / MODULES / "kvm.ko"
    debug = {".debug_info": b"how it was compiled"}
    path.write_bytes(module("kvm", "irqbypass", body=b"what is loaded", sections=debug))
    boot = (emulator.machine().image() / configuration.BOOT_DISK).read_bytes()
    assert b"what is loaded" in boot
    assert b"how it was compiled" not in boot


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def inside(name: str) -> Callable[[Emulator, Patch], object]:
    """Return what changes a file of kvmtest/lab/inside."""

    def change(emulator: Emulator, patch: Patch) -> None:
        folder = emulator.folder / "inside"
        folder.mkdir()
        for path in image._INSIDE.iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        append(folder / name)
        patch.setattr(image, "_INSIDE", folder)

    return change


def another(module_: object, name: str) -> Callable[[Emulator, Patch], object]:
    """Return what has a module find a file of its with other contents."""

    def change(emulator: Emulator, patch: Patch) -> None:
        file = emulator.folder / "another"
        file.write_bytes(Path(getattr(module_, name)).read_bytes() + b"\n")
        patch.setattr(module_, name, file)

    return change


def other_kernel(emulator: Emulator, _: Patch) -> None:
    kernel = bzimage(vmlinux(b"\xf4\xf4"), banner=BANNER)
    (emulator.tree / f"boot/vmlinuz-{RELEASE}").write_bytes(kernel)


def other_module(emulator: Emulator, _: Patch) -> None:
    data = module("kvm_intel", "kvm", body=b"other")
    (emulator.tree / f"{MODULES}/kvm-intel.ko").write_bytes(data)


IMAGES: dict[str, Callable[[Emulator, Patch], object]] = {
    "kernel": other_kernel,
    "modules": other_module,
    "agent": inside("agent.py"),
    "init": inside("init"),
    "port": inside("port"),
    "command line": lambda _, patch: patch.setattr(image, "COMMAND_LINE", "noisy"),
    "module arguments": lambda _, patch: patch.setitem(image.MODULE_ARGUMENTS, "kvm", ("a=1",)),
    "imports": lambda _, patch: patch.setattr(image, "_IMPORTS", ("json",)),
    "userland": lambda emulator, patch: patch.setattr(
        userland, "sources", lambda: {"/bin/other": emulator.folder / "bochs"}
    ),
    "stub of flat kernels": another(flat_kernel, "STUB"),
    "boot loader": another(disk, "LOADER"),
    **{
        f"code of {each.__name__}": another(each, "__file__")
        for each in (bzimages, disk, flat_kernel, image, userland)
    },
}
MACHINES: dict[str, Callable[[Emulator, Patch], object]] = {
    "emulator": lambda emulator, _: append(emulator.folder / "bochs"),
    "MSRs": another(configuration, "MSRS"),
    "configuration": lambda _, patch: patch.setattr(configuration, "INSTRUCTIONS_PER_SECOND", 5),
}


def made(emulator: Emulator, hardware: Hardware | None = None) -> tuple[Path, Path, Path]:
    lab = emulator.machine(hardware=hardware or Hardware())
    return lab.image(), lab.booted(), lab.ready()


@pytest.mark.parametrize("change", IMAGES)
def test_whatever_an_image_is_made_of_makes_it_and_its_machines_be_made_anew(
    emulator: Emulator, monkeypatch: Patch, change: str
) -> None:
    before = made(emulator)
    assert made(emulator) == before
    IMAGES[change](emulator, monkeypatch)
    assert not set(made(emulator)) & set(before)


@pytest.mark.parametrize("change", MACHINES)
def test_whatever_a_machine_is_made_of_makes_it_be_saved_anew_of_the_same_image(
    emulator: Emulator, monkeypatch: Patch, change: str
) -> None:
    before = made(emulator)
    if change == "emulator":
        # It is in the small userland, too.
        file = emulator.folder / "program"
        file.touch()
        monkeypatch.setattr(userland, "sources", lambda: {"/bin/program": file})
        before = made(emulator)
    MACHINES[change](emulator, monkeypatch)
    after = made(emulator)
    assert after[0] == before[0]
    assert not set(after[1:]) & set(before[1:])


def test_another_hardware_is_another_machine_of_the_same_image(emulator: Emulator) -> None:
    before, after = made(emulator), made(emulator, Hardware(cpus=2))
    assert after[0] == before[0]
    assert not set(after[1:]) & set(before[1:])


def test_another_kvmtest_is_started_in_the_same_booted_machine(
    emulator: Emulator, monkeypatch: Patch
) -> None:
    before = made(emulator)
    monkeypatch.setattr(payload, "package", lambda: {"kvmtest/__init__.py": b""})
    after = made(emulator)
    assert after[:2] == before[:2]
    assert after[2] != before[2]


def test_steps_are_told_when_they_are_done_and_only_then(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.machine().run(job(), 60)
    told = capsys.readouterr().out
    for step in ("making the image", "booting it, once", "starting kvmtest in it, once"):
        assert told.count(step) == 1
    emulator.machine().run(job(), 60)
    assert capsys.readouterr().out == "running the suite in a saved machine\ndeciding\n"
