"""Each source says what it lacks, does what it says, and the dangerous ones come only by name."""

import os
from pathlib import Path

import pytest
from stand_in import FACP, XEON, fadt_table, intel_host, stand_in, write

from kvmtest.errors import KvmtestError, UsageError
from kvmtest.host.fadt import Fadt
from kvmtest.host.lab import Lab
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.host.tsc import tsc_hz
from kvmtest.missing import Missing
from kvmtest.smi import BY_NAME, Periodic, Source, Triggered, choose, command, lab, sources
from kvmtest.smi.counts import MsrSmiCount
from kvmtest.smi.sources import SOURCES

EFIVARS = "/sys/firmware/efi/efivars"
LOCKDOWN = "/sys/kernel/security/lockdown"
BOOT_ORDER = "BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"
LAB_MSR = 0x4B500000

Files = dict[str, str | bytes]


def machine(root: Path, files: Files) -> Machine:
    """A machine that has an SMI count."""
    tree = intel_host(root)
    stand_in(root, files)
    return Machine(tree)


PORT: Files = {FACP: fadt_table(XEON), "/dev/port": bytes(0x100)}
VARIABLES: Files = {f"{EFIVARS}/{BOOT_ORDER}": b"\7\0\0\0\1\0", f"{EFIVARS}/Abc-1": b"\7\0\0\0"}


def source(machine: Machine, wanted: str) -> Source:
    chosen = choose(machine, wanted)
    assert not isinstance(chosen, Missing), chosen
    return chosen


def fire(source: Source) -> None:
    assert isinstance(source, Triggered)
    with source.opened() as fire:
        fire()


@pytest.mark.parametrize(
    ("wanted", "files", "words"),
    [
        ("apm-port", {"/dev/port": b""}, "shows no ACPI table FACP"),
        ("apm-port", {FACP: fadt_table(XEON)}, "there is no /dev/port"),
        (
            "apm-port",
            {**PORT, FACP: fadt_table(Fadt(0xB2, 1, 2, 0, 0, 0, 1 << 20))},
            "hardware-reduced",
        ),
        ("apm-port", {**PORT, FACP: fadt_table(Fadt(0, 0, 0, 0, 0, 0, 0))}, "SMI_CMD is 0"),
        ("apm-port", {**PORT, FACP: fadt_table(Fadt(0x10000, 1, 2, 0, 0, 0, 0))}, "no I/O port"),
        ("apm-port", {**PORT, LOCKDOWN: "none [integrity]"}, "lockdown (integrity)"),
        ("apm-port:0xf2", PORT, "0xf2 is never written to the SMI command port: it is the FADT's"),
        ("efivar", {}, "not booted by UEFI"),
        ("efivar", {"/sys/firmware/efi/systab": ""}, "not mounted or empty"),
        ("efivar:Nope-1", VARIABLES, "there is no UEFI variable Nope-1"),
        ("command", {}, "no command is named"),
        ("command:no-such-tool -x", {}, "there is no command no-such-tool"),
        ("lab", {}, "no emulated machine of a lab"),
    ],
)
def test_each_obstacle_is_named(tmp_path: Path, wanted: str, files: Files, words: str) -> None:
    missing = choose(machine(tmp_path, files), wanted)
    assert isinstance(missing, Missing)
    assert words in missing.what


def test_what_must_be_asked_for_is_not_looked_for_where_another_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*_: object) -> Source | Missing:
        raise AssertionError

    here = machine(tmp_path, VARIABLES)
    for name in BY_NAME:
        monkeypatch.setitem(SOURCES, name, looked)
    chosen = choose(here, None)
    assert not isinstance(chosen, Missing)
    assert chosen.name == "efivar"


def test_nothing_waits_for_smis_that_nobody_counts(tmp_path: Path) -> None:
    missing = choose(Machine(Tree(tmp_path)), "passive")
    assert isinstance(missing, Missing)
    assert "nothing counts SMIs" in missing.what
    assert source(machine(tmp_path, {}), "passive").changes == "nothing"


def test_a_count_that_was_only_looked_for_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, {})
    closed: list[MsrSmiCount] = []
    monkeypatch.setattr(MsrSmiCount, "close", lambda count: closed.append(count))
    choose(host, "passive")
    assert len(closed) == 1


def test_a_port_or_variable_that_may_not_be_used_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, {**PORT, **VARIABLES})
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    for name in ("apm-port", "efivar"):
        missing = choose(host, name)
        assert isinstance(missing, Missing)
        assert "no permission" in missing.what
        assert missing.remedy == "run as root"


@pytest.mark.parametrize(
    "wanted", ["magic", "", "apm-port:256", "apm-port:-1", "apm-port:x", "command:a 'b"]
)
def test_nonsense_is_a_usage_error(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(UsageError):
        choose(machine(tmp_path, PORT), wanted)


# Which one is used


def test_unasked_only_a_gentle_source_is_used(tmp_path: Path) -> None:
    host = machine(tmp_path, {**PORT, **VARIABLES})
    usable = {name for name, found in sources(host).items() if not isinstance(found, Missing)}
    assert usable == {"passive", "efivar", "apm-port"}
    chosen = choose(host, None)
    assert not isinstance(chosen, Missing)
    assert chosen.name == "efivar"
    assert chosen.name not in BY_NAME


def test_where_only_others_could_work_they_are_named_and_not_used(tmp_path: Path) -> None:
    missing = choose(machine(tmp_path, PORT), None)
    assert isinstance(missing, Missing)
    assert missing.remedy == "use --smi-source passive or --smi-source apm-port"
    assert "efivar: this system was not booted by UEFI" in missing.what


def test_where_nothing_works_every_obstacle_is_named(tmp_path: Path) -> None:
    missing = choose(Machine(Tree(tmp_path)), None)
    assert isinstance(missing, Missing)
    for name in ("passive", "lab", "efivar", "command", "apm-port"):
        assert f"{name}: " in missing.what


# What they do


def test_no_value_of_the_fadt_is_ever_written_to_the_port(tmp_path: Path) -> None:
    host = machine(tmp_path, PORT)
    port = host.tree.path("/dev/port")
    written = set()
    for value in range(256):
        blank = bytes([value ^ 0xFF]) * 0x100
        port.write_bytes(blank)
        chosen = choose(host, f"apm-port:{value:#x}")
        if not isinstance(chosen, Missing):
            fire(chosen)
        if port.read_bytes() != blank:
            # Nothing but that byte, at no port but SMI_CMD.
            assert port.read_bytes() == blank[:0xB2] + bytes([value]) + blank[0xB3:]
            written.add(value)
    assert written == set(range(256)) - {0xA0, 0xA1, 0xF2, 0x80, 0x85}


def test_the_port_gets_0x90_where_nothing_else_is_named_and_never_in_a_hurry(
    tmp_path: Path,
) -> None:
    host = machine(tmp_path, PORT)
    chosen = source(host, "apm-port")
    fire(chosen)
    assert host.tree.path("/dev/port").read_bytes()[0xB2] == 0x90
    assert "0x90" in chosen.describes
    assert "0xb2" in chosen.describes
    with pytest.raises(UsageError, match="up to 20 Hz"), chosen.raising(21):
        pass


def test_a_variable_is_read_and_one_that_can_t_be_is_an_error(tmp_path: Path) -> None:
    host = machine(tmp_path, VARIABLES)
    chosen = source(host, "efivar")
    assert BOOT_ORDER in chosen.describes
    fire(chosen)
    write(host.tree, f"{EFIVARS}/Abc-1", b"")
    with pytest.raises(KvmtestError, match="Abc-1 is empty; choose another"):
        fire(source(host, "efivar:Abc-1"))
    gone = source(host, "efivar:Abc-1")
    host.tree.path(f"{EFIVARS}/Abc-1").unlink()
    with pytest.raises(KvmtestError, match="can't open"):
        fire(gone)


def test_a_command_is_run_and_its_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, {})
    file = tmp_path / "a file"
    fire(source(host, f"command:touch '{file}'"))
    assert file.exists()
    with pytest.raises(KvmtestError, match="status 1; name a command that succeeds"):
        fire(source(host, "command:false"))
    with pytest.raises(KvmtestError, match="No such file"):
        fire(source(host, "command:cat /no/such/file"))
    monkeypatch.setattr(command, "_LONGEST_S", 0.01)
    with pytest.raises(KvmtestError, match=r"more than 0\.01 s"):
        fire(source(host, "command:sleep 60"))


def lab_machine(root: Path) -> Machine:
    """A lab's machine, whose MSR device is a file, in which MSRs overlap."""
    host = machine(root, VARIABLES)
    details = {"smi_source_msr": LAB_MSR}
    vars(host)["lab"] = Lab("Bochs", "skylake", "2.7", {}, details)
    os.truncate(host.tree.path("/dev/cpu/0/msr"), LAB_MSR + 16)
    return host


def lab_msr(host: Machine) -> int:
    assert not isinstance(host.msr, Missing)
    return host.msr.read(LAB_MSR, 0)


def test_the_lab_is_the_first_choice_in_a_lab(tmp_path: Path) -> None:
    chosen = choose(lab_machine(tmp_path), None)
    assert not isinstance(chosen, Missing)
    assert chosen.name == "lab"


def test_the_lab_s_period_is_that_of_the_rate_and_0_after_any_end(tmp_path: Path) -> None:
    host = lab_machine(tmp_path)
    chosen = source(host, "lab")
    assert isinstance(chosen, Periodic)
    with chosen.raising(1000):
        period = lab_msr(host)
    assert period == pytest.approx(tsc_hz() / 1000, rel=0.01)
    assert lab_msr(host) == 0
    with chosen.raising(1000, outside_guests=True):
        assert lab_msr(host) >> 63 == 1
    with pytest.raises(ZeroDivisionError), chosen.raising(1000):
        1 / (not lab_msr(host))
    assert lab_msr(host) == 0


class Msrs:
    """A lab's MSRs, and how they were written."""

    def __init__(self, cpus: int) -> None:
        self.cpus = tuple(range(cpus))
        self.written: list[tuple[int, int, int]] = []

    def read(self, index: int, cpu: int) -> int:
        return 0

    def write(self, index: int, cpu: int, value: int) -> None:
        self.written.append((index, cpu, value))


@pytest.mark.parametrize(("cpus", "longer"), [(1, []), (2, [(LAB_MSR + 4, 0, lab.TURNS)])])
def test_the_lab_s_handler_is_long_where_steps_of_the_tsc_are(
    tmp_path: Path, cpus: int, longer: list[tuple[int, int, int]]
) -> None:
    host = lab_machine(tmp_path)
    msrs = Msrs(cpus)
    vars(host)["msr"] = msrs
    chosen = source(host, "lab")
    assert isinstance(chosen, Periodic)
    with chosen.raising(1000):
        # Before the first SMI.
        *before, (index, _, _) = msrs.written
    assert (before, index) == (longer, LAB_MSR)
