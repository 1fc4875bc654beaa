"""lab/emulators/bochs/stock.py: what is found, how it is started, and what its machines lack."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.bochs import configuration
from kvmtest.lab.emulators.bochs.stock import StockBochs
from kvmtest.lab.emulators.emulator import Emulator, Hardware, Start

#: What ``--help`` says by version, about the debugger.
HELP = {
    "2.7": "Bochs x86 Emulator 2.7\n  -rc filename     execute debugger commands stored in file",
    "3.0": "Bochs x86 Emulator 3.0\n  -debugger        start Bochs internal debugger on startup\n"
    "  -rc filename     execute debugger commands stored in file",
    "2.8": "Bochs x86 Emulator 2.8\n  --help           display this help and exit",
}
Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install what says that it is a version of Bochs, as all that is in the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("BIOS", "VGA_BIOS", "MSRS"):
        (tmp_path / name).write_text(name)
        monkeypatch.setattr(configuration, name, tmp_path / name)

    def script(version: str) -> Path:
        program = folder / "bochs-bin"
        program.write_text(f"#!/bin/sh\necho '{HELP[version]}' >&2\n")
        program.chmod(0o755)
        return program

    return script


def launched(found: StockBochs, tmp_path: Path) -> list[str]:
    folder = tmp_path / "machine"
    folder.mkdir()
    return found.launch(Start(Hardware(), tmp_path), folder).command


@pytest.mark.parametrize("version", HELP)
def test_any_version_is_found_and_told_to_run_at_once(
    install: Install, tmp_path: Path, version: str
) -> None:
    program = install(version)
    found: Emulator = StockBochs.find()
    assert isinstance(found, StockBochs)
    assert (found.program, found.version) == (program, version)
    folder = tmp_path / "machine"
    config, script = folder / "bochsrc", folder / "script"
    command = [str(program), "-q", "-f", str(config)]
    if version == "2.7":
        assert launched(found, tmp_path) == [*command, "-rc", str(script)]
        assert script.read_text() == "c\n"
    else:
        assert launched(found, tmp_path) == command
    assert "magic_break" not in config.read_text()


def test_where_there_is_none_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentUnfit, match=r"is not installed; apt-get install .*bochs-term"):
        StockBochs.find()


@pytest.mark.parametrize("name", ["BIOS", "VGA_BIOS"])
def test_a_missing_bios_is_named(install: Install, tmp_path: Path, name: str) -> None:
    install("3.0")
    (tmp_path / name).unlink()
    with pytest.raises(EnvironmentUnfit, match=f"{name}, which Bochs needs, .*; apt-get install"):
        StockBochs.find()


def test_it_says_why_it_is_used_where_something_is_missing(install: Install) -> None:
    install("3.0")
    found = StockBochs.find("the lab's own emulator can't be built: make is missing")
    assert set(found.lacks) == {"pmu", "debugctl-switch"}
    for reason in found.lacks.values():
        assert reason.endswith("; the lab's own emulator can't be built: make is missing")
    assert found.details["emulator_chosen"] == found.why
    with pytest.raises(EnvironmentUnfit, match=r"rtm: .*can't show it; .* make is missing"):
        found.check(Hardware(cpu_features=("rtm",)))
    found.check(Hardware(cpus=2))


def test_without_a_reason_none_is_made_up(install: Install) -> None:
    install("3.0")
    found = StockBochs.find()
    assert not any(";" in reason for reason in found.lacks.values())
    assert "emulator_chosen" not in found.details


def test_the_environment_is_small_and_names_a_terminal(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("3.0")
    monkeypatch.setenv("BOCHSRC", "/elsewhere")
    monkeypatch.setenv("TERM", "xterm-kitty")
    folder = tmp_path / "machine"
    folder.mkdir()
    environment = StockBochs.find().launch(Start(Hardware(), tmp_path), folder).environment
    assert environment["TERM"] == "vt100"
    assert set(environment) <= {"PATH", "HOME", "LANG", "TERM"}


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("#\n")


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "program": lambda folder, _: append(folder / "bin" / "bochs-bin"),
    "BIOS": lambda folder, _: append(folder / "BIOS"),
    "VGA BIOS": lambda folder, _: append(folder / "VGA_BIOS"),
    "MSRs": lambda folder, _: append(folder / "MSRS"),
    "CPU model": lambda _, patch: patch.setattr(configuration, "CPU_MODEL", "haswell"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_machine_is_made_of_changes_its_digest(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    install("3.0")
    before = StockBochs.find().machine_digest(Hardware())
    assert StockBochs.find("why").machine_digest(Hardware()) == before
    assert StockBochs.find().machine_digest(Hardware(cpus=2)) != before
    CHANGES[change](tmp_path, monkeypatch)
    assert StockBochs.find().machine_digest(Hardware()) != before


def test_no_machine_is_saved(install: Install, tmp_path: Path) -> None:
    install("2.7")
    found = StockBochs.find()
    assert not found.can_save
    assert not found.is_saved(tmp_path)


def test_the_status_of_a_machine_that_was_shut_down_is_no_failure(install: Install) -> None:
    install("3.0")
    found = StockBochs.find()
    assert found.ended_well(1)
    assert found.ended_well(os.EX_OK)
    assert not found.ended_well(-9)
