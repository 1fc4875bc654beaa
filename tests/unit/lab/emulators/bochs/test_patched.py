"""lab/emulators/bochs/patched.py: what is found, and what a machine's name depends on."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.bochs import configuration
from kvmtest.lab.emulators.bochs import patched as module
from kvmtest.lab.emulators.bochs.patched import PACKAGES, Bochs
from kvmtest.lab.emulators.emulator import Hardware

SYMBOL = "_ZN13bx_real_sim_c10save_stateEPKc"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install what says that it is Bochs; return its folder, which is all that is in the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, f"echo 'Bochs x86 Emulator 2.7' >&2 # {SYMBOL}")
    monkeypatch.setenv("PATH", str(folder))
    for owner, name in (
        (configuration, "BIOS"),
        (configuration, "VGA_BIOS"),
        (configuration, "MSRS"),
        (module, "_EXTENSION"),
    ):
        (tmp_path / name).write_text(name)
        monkeypatch.setattr(owner, name, tmp_path / name)
    return folder


def program(folder: Path, script: str, name: str = "bochs-bin") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


# What is installed


def test_the_emulator_is_found_with_its_version(installed: Path) -> None:
    found = Bochs.find()
    assert (found.program, found.version) == (installed / "bochs-bin", "2.7")
    assert found.can_save
    assert found.environment(Hardware())["LD_PRELOAD"] == str(installed.parent / "_EXTENSION")


def test_where_there_is_no_emulator_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentUnfit, match=f"Bochs, is not installed; {install(*PACKAGES)}"):
        Bochs.find()


@pytest.mark.parametrize("name", ["BIOS", "VGA_BIOS"])
def test_a_missing_bios_is_named(installed: Path, name: str) -> None:
    (installed.parent / name).unlink()
    with pytest.raises(
        EnvironmentUnfit, match=f"{name}, which Bochs needs, .*; {install(*PACKAGES)}"
    ):
        Bochs.find()


@pytest.mark.parametrize("script", ["echo Box 2.7", "exit 1", r"printf '\377'"])
def test_another_program_of_that_name_is_refused(installed: Path, script: str) -> None:
    program(installed, script)
    with pytest.raises(
        EnvironmentUnfit, match=f"does not identify itself as Bochs; {install(*PACKAGES)}"
    ):
        Bochs.find()


@pytest.mark.parametrize("reason", ["no extension", "a build that can't be told to save"])
def test_without_a_way_to_save_machines_are_booted_each_time(installed: Path, reason: str) -> None:
    if reason == "no extension":
        (installed.parent / "_EXTENSION").unlink()
    else:
        program(installed, "echo 'Bochs x86 Emulator 3.0'")
    found = Bochs.find()
    assert not found.can_save
    assert "LD_PRELOAD" not in found.environment(Hardware())


def test_the_environment_is_small_and_names_a_terminal(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOCHSRC", "/elsewhere")
    monkeypatch.setenv("TERM", "xterm-kitty")
    environment = Bochs.find().environment(Hardware())
    assert environment["TERM"] == "vt100"
    assert set(environment) <= {"PATH", "HOME", "LANG", "TERM", "GLIBC_TUNABLES", "LD_PRELOAD"}


def test_the_known_build_is_the_extension_s() -> None:
    source = (Path(__file__).parents[5] / "c_helpers/bochs/build.c").read_text()
    table = source[source.index("build[]") : source.index("};")]
    assert bytes.fromhex("".join(re.findall(r"0x(..)", table))) == module._KNOWN_BUILD


def test_a_build_is_known_by_its_id_where_there_is_the_extension(installed: Path) -> None:
    assert not Bochs.find().is_known
    with (installed / "bochs-bin").open("ab") as file:
        file.write(b"# " + module._KNOWN_BUILD + b"\n")
    assert Bochs.find().is_known
    (installed.parent / "_EXTENSION").unlink()
    assert not Bochs.find().is_known


def test_a_shown_feature_goes_to_the_extension_and_makes_another_machine(installed: Path) -> None:
    bochs, plain, with_rtm = Bochs.find(), Hardware(), Hardware(cpu_features=("rtm",))
    assert bochs.environment(with_rtm)["KVMTEST_CPU_FEATURES"] == "rtm"
    assert bochs.machine_digest(plain) != bochs.machine_digest(with_rtm)


# What a machine's name depends on


def append(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "program": lambda folder, _: append(folder / "bochs-bin"),
    "BIOS": lambda folder, _: append(folder.parent / "BIOS"),
    "VGA BIOS": lambda folder, _: append(folder.parent / "VGA_BIOS"),
    "MSRs": lambda folder, _: append(folder.parent / "MSRS"),
    "extension": lambda folder, _: append(folder.parent / "_EXTENSION"),
    "no extension": lambda folder, _: (folder.parent / "_EXTENSION").unlink(),
    "speed": lambda _, patch: patch.setattr(configuration, "INSTRUCTIONS_PER_SECOND", 5),
    "CPU model": lambda _, patch: patch.setattr(configuration, "CPU_MODEL", "haswell"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_machine_is_made_of_changes_its_digest(
    installed: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = Bochs.find().machine_digest(Hardware())
    assert Bochs.find().machine_digest(Hardware()) == before
    CHANGES[change](installed, monkeypatch)
    assert Bochs.find().machine_digest(Hardware()) != before


@pytest.mark.parametrize("hardware", [Hardware(cpus=2), Hardware(memory=768)], ids=str)
def test_the_hardware_changes_its_digest(installed: Path, hardware: Hardware) -> None:
    found = Bochs.find()
    assert found.machine_digest(hardware) != found.machine_digest(Hardware())


def test_where_kvmtest_is_does_not_change_its_digest(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bochs.find().machine_digest(Hardware())
    moved = installed.parent / "elsewhere"
    (installed.parent / "MSRS").rename(moved)
    monkeypatch.setattr(configuration, "MSRS", moved)
    assert Bochs.find().machine_digest(Hardware()) == before


# How it is started


def test_the_commands_name_the_configuration_and_the_script(installed: Path) -> None:
    found = Bochs.find()
    name = str(installed / "bochs-bin")
    assert found.boot(Path("/t/rc"), Path("/t/s")) == [name, "-q", "-f", "/t/rc", "-rc", "/t/s"]
    assert found.restore(Path("/t/d"), Path("/t/s")) == [name, "-q", "-r", "/t/d", "-rc", "/t/s"]
