"""Each source says what it lacks, does what it says, and the dangerous ones come only by name."""

import errno
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.stand_in import (
    FACP,
    XEON,
    await_free,
    environment,
    fadt_table,
    intel_host,
    snapshot,
    stand_in,
    write,
)

from kvmtest.errors import KvmtestError, UsageError
from kvmtest.host.changes.journal import RECORD, Journal, parse
from kvmtest.host.facts.fadt import Fadt
from kvmtest.host.facts.lab import LabFacts
from kvmtest.host.facts.tsc import tsc_hz
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi import (
    ONLY_AFTER,
    OPT_IN,
    Periodic,
    Source,
    Triggered,
    all_sources,
    candidates,
    choose,
    ready,
)
from kvmtest.smi.catalogue import SOURCES
from kvmtest.smi.counts import MsrSmiCount
from kvmtest.smi.sources import command, lab

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
DELL: Files = {
    "/sys/class/hwmon/hwmon0/name": "coretemp\n",
    "/sys/class/hwmon/hwmon0/temp1_input": "40000\n",
    "/sys/class/hwmon/hwmon3/name": "dell_smm\n",
    "/sys/class/hwmon/hwmon3/fan1_input": "1200\n",
    "/sys/class/hwmon/hwmon3/temp2_input": "51000\n",
}
VARIABLES: Files = {f"{EFIVARS}/{BOOT_ORDER}": b"\7\0\0\0\1\0", f"{EFIVARS}/Abc-1": b"\7\0\0\0"}

DCDBAS = "/sys/devices/platform/dcdbas"
DCDBAS_FILES: Files = {f"{DCDBAS}/smi_data": b"", f"{DCDBAS}/smi_request": b""}


def source(machine: Machine, wanted: str) -> Source:
    chosen = choose(machine, wanted)
    assert not isinstance(chosen, Missing), chosen
    return chosen


def file_of(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


def variables_of(machine: Machine) -> set[str]:
    return {path.name for path in machine.tree.path(EFIVARS).iterdir()}


def fire(source: Source, journal: Journal | None = None) -> None:
    """Fire once; what has to be prepared gets a journal."""
    unprepared: Any = None
    with ready(source, journal or unprepared) as each:
        assert isinstance(each, Triggered)
        with each.opened() as fire:
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
        ("efivarfs-statfs", {}, "not booted by UEFI"),
        ("efivarfs-statfs", {"/sys/firmware/efi/systab": ""}, "not mounted or empty"),
        ("efivar-refused", {}, "not booted by UEFI"),
        ("efivar-write", {}, "not booted by UEFI"),
        ("efivar-write", VARIABLES, "none of the UEFI variables that are surely harmless"),
        ("efivar-write:Nope-1", VARIABLES, "there is no UEFI variable Nope-1"),
        ("dell-smm-hwmon", {}, "no sensors of the driver dell-smm-hwmon"),
        (
            "dell-smm-hwmon",
            {"/sys/class/hwmon/hwmon0/name": "dell_smm\n"},
            "shows no temperature and no fan",
        ),
        ("dcdbas", {}, "the driver dcdbas is not loaded"),
        ("dcdbas", DCDBAS_FILES, "no SMBIOS structure 0xda"),
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
    for name in OPT_IN:
        monkeypatch.setitem(SOURCES, name, looked)
    chosen = choose(here, None)
    assert not isinstance(chosen, Missing)
    assert chosen.name == "efivar"


def test_nothing_waits_for_smis_that_nobody_counts(tmp_path: Path) -> None:
    missing = choose(Machine(Tree(tmp_path)), "passive")
    assert isinstance(missing, Missing)
    assert "nothing counts SMIs" in missing.what
    assert source(machine(tmp_path, {}), "passive").changes == "nothing"


def test_smis_that_come_by_themselves_get_minutes_but_not_in_a_lab(tmp_path: Path) -> None:
    waits = source(machine(tmp_path, {}), "passive")
    assert isinstance(waits, Periodic)
    assert waits.patience_s is not None
    assert waits.patience_s >= 60
    waits = source(lab_machine(tmp_path / "lab"), "passive")
    assert isinstance(waits, Periodic)
    assert waits.patience_s == 1


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
    usable = {name for name, found in all_sources(host).items() if not isinstance(found, Missing)}
    assert usable == {"passive", "efivar", "efivarfs-statfs", "efivar-refused", "apm-port"}
    chosen = choose(host, None)
    assert not isinstance(chosen, Missing)
    assert chosen.name == "efivar"
    assert chosen.name not in OPT_IN


def test_where_only_others_could_work_they_are_named_and_not_used(tmp_path: Path) -> None:
    missing = choose(machine(tmp_path, PORT), None)
    assert isinstance(missing, Missing)
    assert missing.remedy == "use --smi-source passive or --smi-source apm-port"
    of_uefi = "efivar, efivarfs-statfs, efivar-refused, efivar-write"
    assert f"{of_uefi}: this system was not booted by UEFI" in missing.what


def test_where_nothing_works_every_obstacle_is_named_once(tmp_path: Path) -> None:
    missing = choose(Machine(Tree(tmp_path)), None)
    assert isinstance(missing, Missing)
    obstacles = re.findall(r"(?:^no SMI source \(|; )([a-z, -]+): ", missing.what)
    assert {name for names in obstacles for name in names.split(", ")} >= set(SOURCES)
    for source in all_sources(Machine(Tree(tmp_path))).values():
        assert isinstance(source, Missing)
        assert missing.what.count(source.what) == 1


def test_unasked_what_stores_comes_after_what_only_reads(tmp_path: Path) -> None:
    found = candidates(machine(tmp_path, {**VARIABLES, **DELL, **PORT}), None)
    assert not isinstance(found, Missing)
    names = [each.name for each in found]
    assert names == ["efivar", "efivarfs-statfs", "dell-smm-hwmon", "efivar-refused"]
    assert names.index(ONLY_AFTER["efivar-refused"]) < names.index("efivar-refused")


def test_what_is_wanted_is_the_only_candidate(tmp_path: Path) -> None:
    found = candidates(machine(tmp_path, {**VARIABLES, **PORT}), "apm-port:0x91")
    assert not isinstance(found, Missing)
    assert [each.name for each in found] == ["apm-port"]


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
    assert isinstance(chosen, Triggered)
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


def test_the_free_space_of_efivarfs_is_asked_for_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, VARIABLES)
    asked: list[Path] = []
    monkeypatch.setattr(os, "fstatvfs", lambda fd: asked.append(file_of(fd)))
    before = snapshot(host.tree)
    fire(source(host, "efivarfs-statfs"))
    assert asked == [host.tree.path(EFIVARS)]
    assert snapshot(host.tree) == before


def test_the_limit_that_the_kernel_has_is_named_and_not_exceeded(tmp_path: Path) -> None:
    chosen = source(machine(tmp_path, VARIABLES), "efivarfs-statfs")
    assert "at most 5 times in 2 s" in chosen.describes
    # The sixth of six comes after the 2 s.
    assert 5 / chosen.fastest_hz > 2


def test_a_file_system_that_can_t_say_ends_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, VARIABLES)

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fstatvfs", refuse)
    with pytest.raises(KvmtestError, match="Input/output error"):
        fire(source(host, "efivarfs-statfs"))


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> list[tuple[str, bytes]]:
    """Have writes of UEFI variables end with this errno, 0 for success; return what is written."""
    written: list[tuple[str, bytes]] = []

    def write(fd: int, data: bytes) -> int:
        name = str(file_of(fd))
        if "efivars" not in name:
            return real(fd, data)
        written.append((name, data))
        if number:
            raise OSError(number, os.strerror(number))
        return len(data)

    real = os.write
    monkeypatch.setattr(os, "write", write)
    return written


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EROFS])
def test_a_write_that_is_refused_stores_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    host = machine(tmp_path, VARIABLES)
    written = refusing(monkeypatch, number)
    chosen = source(host, "efivar-refused")
    with Journal.open(host.tree) as journal, ready(chosen, journal) as each:
        assert isinstance(each, Triggered)
        for _ in range(2):  # One file for as long as the source is ready.
            with each.opened() as fire_once:
                fire_once()
                fire_once()
        (new,) = variables_of(host) - {BOOT_ORDER, "Abc-1"}
    assert len(written) == 4
    assert {data for _, data in written} == {b"\6\0\0\0\1"}, "no NON_VOLATILE, one byte"
    assert {Path(name).name for name, _ in written} == {new}
    assert re.fullmatch(r"kvmtest-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", new)
    assert variables_of(host) == {BOOT_ORDER, "Abc-1"}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "the firmware made the UEFI variable kvmtest-.*deleted again"),
        (errno.ENOSPC, "No space left on device"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_write_that_is_not_refused_ends_the_source_and_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    host = machine(tmp_path, VARIABLES)
    refusing(monkeypatch, number)
    chosen = source(host, "efivar-refused")
    with Journal.open(host.tree) as journal:
        with pytest.raises(KvmtestError, match=words):
            fire(chosen, journal)
        assert variables_of(host) == {BOOT_ORDER, "Abc-1"}


RUN_THAT_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from kvmtest.host.changes.journal import Journal
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.smi import choose, ready
host = Machine(Tree(Path(sys.argv[1])))
journal = Journal.open(host.tree)
held = ready(choose(host, "efivar-refused"), journal)
held.__enter__()
print(*os.listdir(host.tree.path("/sys/firmware/efi/efivars")), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_of_a_write_that_is_refused_goes_also_where_the_run_is_killed(
    tmp_path: Path,
) -> None:
    host = machine(tmp_path, VARIABLES)
    killed = subprocess.run(
        [sys.executable, "-c", RUN_THAT_IS_KILLED, tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "kvmtest-" in killed.stdout
    await_free(host.tree)
    assert variables_of(host) == {BOOT_ORDER, "Abc-1"}


GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
LANG = f"PlatformLang-{GLOBAL}"


def variable(name: str, attributes: int = 7) -> Files:
    return {f"{EFIVARS}/{name}": attributes.to_bytes(4, "little") + b"en"}


def test_a_variable_is_written_with_its_own_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, {**VARIABLES, **variable(LANG)})
    written: list[tuple[str, bytes, int]] = []
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if "efivars" in str(file_of(fd)):
            written.append((file_of(fd).name, data, offset))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with Journal.open(host.tree) as journal:
        fire(source(host, "efivar-write"), journal)
        (entry,) = parse(host.tree.path(RECORD).read_bytes()).entries
        assert entry.arguments["data"] == b"\7\0\0\0en".hex()
    assert written == [(LANG, b"\7\0\0\0en", 0)]
    assert host.tree.path(f"{EFIVARS}/{LANG}").read_bytes() == b"\7\0\0\0en"


@pytest.mark.parametrize(
    ("name", "attributes", "words"),
    [
        *((f"{name}-{GLOBAL}", 7, "what is booted") for name in (
            "Boot0000", "Boot00fF", "BootOrder", "BootNext", "Driver0001", "DriverOrder",
            "SysPrep0000", "SysPrepOrder", "PlatformRecovery0000", "OsRecoveryOrder", "Key0000",
            "BootOptionSupport",
        )),
        *((f"{name}-{GLOBAL}", 7, "Secure Boot") for name in (
            "PK", "KEK", "SecureBoot", "SetupMode", "dbDefault",
        )),
        *((f"{name}-d719b2cb-3d3a-4596-a3bc-dad00e67656f", 7, "Secure Boot") for name in (
            "db", "dbx", "dbt", "MokList", "MokListRT", "MokSBState", "SbatLevel",
        )),
        ("Setup-ec87d643-eba4-4bb5-a1e5-3f3e36b20da9", 7, "the firmware's own settings"),
        ("IntelSetup-ec87d643-eba4-4bb5-a1e5-3f3e36b20da9", 7, "the firmware's own settings"),
        (f"OsIndications-{GLOBAL}", 7, "at the next boot"),
        ("HwErrRec0001-414e6bdd-e47b-47cc-b244-bb61020cf516", 7, "the firmware's own state"),
        (LANG, 7 | 0x8, "a hardware error record"),
        (LANG, 7 | 0x10, "authenticated"),
        (LANG, 7 | 0x20, "authenticated, by time"),
        (LANG, 7 | 0x40, "one that writes append to"),
        (LANG, 7 | 0x80, "authenticated, by a certificate"),
        (LANG, 6, "has attributes 0x6"),
        (LANG, 7 | 0x100, "has attributes 0x107"),
    ],
)  # fmt: skip
def test_a_variable_that_matters_is_never_written(
    tmp_path: Path, name: str, attributes: int, words: str
) -> None:
    host = machine(tmp_path, {**VARIABLES, **variable(name, attributes)})
    missing = choose(host, f"efivar-write:{name}")
    assert isinstance(missing, Missing)
    assert words in missing.what


def test_what_became_of_a_variable_meanwhile_is_looked_at_before_it_is_written(
    tmp_path: Path,
) -> None:
    host = machine(tmp_path, variable(LANG))
    chosen = source(host, "efivar-write")
    write(host.tree, f"{EFIVARS}/{LANG}", b"\x27\0\0\0en")
    with (
        Journal.open(host.tree) as journal,
        pytest.raises(KvmtestError, match="authenticated, by time"),
    ):
        fire(chosen, journal)


def test_a_temperature_of_dells_firmware_is_read_and_not_another_driver_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, DELL)
    read: list[str] = []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        read.append(str(file_of(fd)))
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    chosen = source(host, "dell-smm-hwmon")
    assert chosen.changes == "nothing"
    fire(chosen)
    assert read == [str(host.tree.path("/sys/class/hwmon/hwmon3/temp2_input"))]
    host.tree.path("/sys/class/hwmon/hwmon3/temp2_input").unlink()
    assert "fan1_input" in source(host, "dell-smm-hwmon").describes


def calling_interface(port: int, byte: int, *tokens: tuple[int, int, int]) -> bytes:
    """An SMBIOS structure 0xda, as Dell's firmware has it."""
    body = struct.pack("<HBI", port, byte, 0x3F) + b"".join(struct.pack("<HHH", *t) for t in tokens)
    return struct.pack("<BBH", 0xDA, 4 + len(body), 0x1234) + body


def test_dells_firmware_gets_a_command_that_reads_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: Files = {
        **DCDBAS_FILES,
        "/sys/firmware/dmi/entries/218-0/raw": calling_interface(0, 0, (0xFFFF, 0, 0)),
        "/sys/firmware/dmi/entries/218-1/raw": calling_interface(
            0xB2, 0x91, (0x7D, 0x5E, 1), (0x7E, 0x5F, 1)
        ),
    }
    host = machine(tmp_path, files)
    written: list[tuple[str, bytes]] = []

    def record(fd: int, data: bytes) -> int:
        written.append((file_of(fd).name, data))
        return len(data)

    chosen = source(host, "dcdbas")
    monkeypatch.setattr(os, "write", record)
    fire(chosen)
    (data, command), (request, call), (end, clear) = written
    assert (data, request, call, end, clear) == (
        "smi_data", "smi_request", b"1", "smi_request", b"0"
    )  # fmt: skip
    magic, _, signature, port, byte, _ = struct.unpack_from("<IIIHBB", command)
    assert (magic.to_bytes(4, "big"), signature.to_bytes(4, "big")) == (b"SMI1", b"BSI1")
    assert (port, byte) == (0xB2, 0x91)
    assert struct.unpack_from("<HH8I", command, 16) == (0, 0, 0x5E, 0, 0, 0, 0, 0, 0, 0)


def test_dells_firmware_never_gets_a_value_of_the_fadt(tmp_path: Path) -> None:
    raw = calling_interface(0xB2, XEON.acpi_disable, (0x7D, 0x5E, 1))
    files: Files = {**DCDBAS_FILES, **PORT, "/sys/firmware/dmi/entries/218-0/raw": raw}
    missing = choose(machine(tmp_path, files), "dcdbas")
    assert isinstance(missing, Missing)
    assert "ACPI_DISABLE" in missing.what


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
    vars(host)["lab"] = LabFacts("Bochs", "skylake", "2.7", {}, details)
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
    """A lab's MSRs, all 0."""

    def __init__(self, cpus: int) -> None:
        self.cpus = tuple(range(cpus))

    def read(self, index: int, cpu: int) -> int:
        return 0


@pytest.mark.parametrize(("cpus", "longer"), [(1, []), (2, [(LAB_MSR + 4, 0, lab.TURNS)])])
def test_the_lab_s_handler_is_long_where_steps_of_the_tsc_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    longer: list[tuple[int, int, int]],
) -> None:
    host = lab_machine(tmp_path)
    written: list[tuple[int, int, int]] = []
    monkeypatch.setattr(lab, "write_msr", lambda _, *words: written.append(words))
    vars(host)["msr"] = Msrs(cpus)
    chosen = source(host, "lab")
    assert isinstance(chosen, Periodic)
    with chosen.raising(1000):
        # Before the first SMI.
        *before, (index, _, _) = written
    assert (before, index) == (longer, LAB_MSR)
