"""lab/emulators/bochs.py: what is found, what a machine is told, and what its name depends on."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators import bochs as module
from kvmtest.lab.emulators.bochs import Bochs, Drives, Ports, configuration, reconfigured
from kvmtest.lab.emulators.emulator import Hardware

DRIVES = Drives(Path("/c/boot.iso"), Path("/t/payload"))
PORTS = Ports(Path("/t/serial"), Path("/t/parallel"), Path("/t/log"))
SYMBOL = "_ZN13bx_real_sim_c10save_stateEPKc"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install what says that it is Bochs; return its folder, which is all that is in the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, f"echo 'Bochs x86 Emulator 2.7' >&2 # {SYMBOL}")
    monkeypatch.setenv("PATH", str(folder))
    for name in ("_BIOS", "_VGA_BIOS", "_MSRS", "_EXTENSION"):
        (tmp_path / name).write_text(name)
        monkeypatch.setattr(module, name, tmp_path / name)
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
    with pytest.raises(EnvironmentUnfit, match=r"Bochs, is not installed; apt-get install .*bochs"):
        Bochs.find()


@pytest.mark.parametrize("name", ["_BIOS", "_VGA_BIOS"])
def test_a_missing_bios_is_named(installed: Path, name: str) -> None:
    (installed.parent / name).unlink()
    with pytest.raises(EnvironmentUnfit, match=f"{name}, which Bochs needs, .*; apt-get install"):
        Bochs.find()


@pytest.mark.parametrize("script", ["echo Box 2.7", "exit 1", r"printf '\377'"])
def test_another_program_of_that_name_is_refused(installed: Path, script: str) -> None:
    program(installed, script)
    with pytest.raises(
        EnvironmentUnfit, match="does not identify itself as Bochs; apt-get install"
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
    source = (Path(__file__).parents[4] / "c_helpers/bochs/build.c").read_text()
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
    "BIOS": lambda folder, _: append(folder.parent / "_BIOS"),
    "VGA BIOS": lambda folder, _: append(folder.parent / "_VGA_BIOS"),
    "MSRs": lambda folder, _: append(folder.parent / "_MSRS"),
    "extension": lambda folder, _: append(folder.parent / "_EXTENSION"),
    "no extension": lambda folder, _: (folder.parent / "_EXTENSION").unlink(),
    "speed": lambda _, patch: patch.setattr(module, "INSTRUCTIONS_PER_SECOND", 5),
    "CPU model": lambda _, patch: patch.setattr(module, "CPU_MODEL", "haswell"),
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
    (installed.parent / "_MSRS").rename(moved)
    monkeypatch.setattr(module, "_MSRS", moved)
    assert Bochs.find().machine_digest(Hardware()) == before


# What a machine is told


def test_the_commands_name_the_configuration_and_the_script(installed: Path) -> None:
    found = Bochs.find()
    name = str(installed / "bochs-bin")
    assert found.boot(Path("/t/rc"), Path("/t/s")) == [name, "-q", "-f", "/t/rc", "-rc", "/t/s"]
    assert found.restore(Path("/t/d"), Path("/t/s")) == [name, "-q", "-r", "/t/d", "-rc", "/t/s"]


def test_a_machine_has_its_hardware_drives_and_ports() -> None:
    text = configuration(Hardware(cpus=2, memory=768), DRIVES, PORTS)
    lines = dict(line.split(": ", 1) for line in text.splitlines())
    assert "model=corei7_skylake_x, count=2" in lines["cpu"]
    assert lines["memory"] == "guest=768, host=768"
    assert 'path="/c/boot.iso"' in lines["ata0-master"]
    assert 'path="/t/payload"' in lines["ata1-master"]
    assert lines["com1"] == 'enabled=1, mode=file, dev="/t/serial"'
    assert lines["parport1"] == 'enabled=1, file="/t/parallel"'
    assert lines["log"] == '"/t/log"'


def test_a_machine_has_no_network_and_no_display() -> None:
    text = configuration(Hardware(), DRIVES, PORTS)
    assert not re.search(r"^(ne2k|e1000|pcipnic|.*\b(rfb|x|vncsrv|socket))\b", text, re.M)
    assert "display_library: term\n" in text


def test_the_msr_file_is_there_and_read() -> None:
    file = re.search(r'msrs="(.*)"', configuration(Hardware(), DRIVES, PORTS))
    assert file
    assert Path(file[1]).is_file()


UNSAYABLE = ['a"b', "a$HOME", "a\nb", os.fsdecode(b"a\xff")]


@pytest.mark.parametrize("name", UNSAYABLE, ids=ascii)
@pytest.mark.parametrize("field", ["serial", "parallel", "log"])
def test_a_path_that_a_bochsrc_can_not_say_is_refused(name: str, field: str) -> None:
    ports = replace(PORTS, **{field: Path("/t", name)})
    for make in (
        lambda: configuration(Hardware(), DRIVES, ports),
        lambda: reconfigured(SAVED, DRIVES, ports),
    ):
        with pytest.raises(EnvironmentUnfit, match=r"Bochs takes no path like .*; set TMPDIR and "):
            make()


# As Bochs 2.7 writes it.
SAVED = """\
# configuration file generated by Bochs
memory: host=512, guest=512
romimage: file="/usr/share/bochs/BIOS-bochs-latest", address=0x00000000, options=none
ata0: enabled=true, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="/old/boot.iso", status=inserted, model="Generic 1234", \
biosdetect=auto
ata0-slave: type=none
ata1-master: type=cdrom, path="/old/payload", status=inserted, model="Generic 1234", biosdetect=auto
cpu: count=1:1:1, ips=100000000, quantum=16, model=corei7_skylake_x, msrs="/old/bochs-msrs.def"
debugger_log: -
log: /old/bochs.log
logprefix: %t%e%d
parport1: enabled=true, file="/old/parallel"
parport2: enabled=false
com1: enabled=true, mode=file, dev="/old/serial"
com2: enabled=false
"""


def test_a_saved_machine_gets_drives_ports_and_msrs_of_here_and_keeps_the_rest() -> None:
    new = reconfigured(SAVED, DRIVES, PORTS)
    assert "/old/" not in new
    fresh = configuration(Hardware(), DRIVES, PORTS)
    quoted = re.compile(r'"/(?:c|t)/[^"]*"|msrs="[^"]*"')
    assert sorted(quoted.findall(new)) == sorted(quoted.findall(fresh))
    ours = ("ata0-master:", "ata1-master:", "com1:", "parport1:", "log:", "cpu:")
    kept = [line for line in SAVED.splitlines() if not line.startswith(ours)]
    assert [line for line in new.splitlines() if not line.startswith(ours)] == kept


def test_backslashes_and_spaces_of_a_path_are_kept() -> None:
    ports = replace(PORTS, serial=Path(r"/t/a b\1\g<0>/serial"))
    assert r'dev="/t/a b\1\g<0>/serial"' in reconfigured(SAVED, DRIVES, ports)


@pytest.mark.parametrize("line", ["com1", "parport1", "log", "ata0-master", "ata1-master", "cpu"])
@pytest.mark.parametrize("count", [0, 2])
def test_a_configuration_of_another_kind_is_refused(line: str, count: int) -> None:
    (found,) = re.findall(rf"^{line}:.*\n", SAVED, re.M)
    with pytest.raises(EnvironmentUnfit, match=f"configuration has {count} lines .*; use --cold"):
        reconfigured(SAVED.replace(found, found * count), DRIVES, PORTS)
