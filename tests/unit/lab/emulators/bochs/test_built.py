"""lab/emulators/bochs/built.py: how a machine is started, and what its name depends on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvmtest.errors import UsageError
from kvmtest.lab.emulators.bochs import configuration
from kvmtest.lab.emulators.bochs.build import Build
from kvmtest.lab.emulators.bochs.built import BuiltBochs
from kvmtest.lab.emulators.emulator import Emulator, Hardware, Start

BOCHS = BuiltBochs(Build(Path("/built"), "digest"), "passed: 7 numbers")
SAVED = """\
romimage: file="/gone/bios.bin", address=0x00000000
vgaromimage: file="/gone/vgabios.bin"
ata0-master: type=cdrom, path="/gone/boot.iso", status=inserted
ata1-master: type=cdrom, path="/gone/payload", status=inserted
cpu: count=1, model=corei7_skylake_x, msrs="/gone/msrs.def"
log: /gone/bochs.log
parport1: enabled=true, file="/gone/parallel"
com1: enabled=true, mode=file, dev="/gone/serial"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that a machine runs in."""
    made = tmp_path / "machine"
    made.mkdir()
    return made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A saved machine."""
    made = tmp_path / "saved"
    made.mkdir()
    for name, text in (("config", SAVED), ("kvmtest", "counters"), ("cpu0", "registers")):
        (made / name).write_text(text)
    return made


def test_a_machine_boots_from_its_configuration(folder: Path) -> None:
    launch = BOCHS.launch(Start(Hardware(), Path("/image")), folder)
    assert launch.command == ["/built/bochs", "-q", "-f", str(folder / "bochsrc")]
    assert launch.dialogue is None
    lines = dict(
        line.split(": ", 1) for line in (folder / "bochsrc").read_text().splitlines() if line
    )
    assert lines["romimage"] == 'file="/built/bios.bin"'
    assert lines["vgaromimage"] == 'file="/built/vgabios.bin"'
    assert 'path="/image/boot.iso"' in lines["ata0-master"]
    assert f'path="{folder}/payload"' in lines["ata1-master"]
    # A build without a sound card and a debugger refuses lines on them.
    assert lines["display_library"] == "nogui"
    assert not lines.keys() & {"sound", "speaker", "magic_break"}


def test_a_saved_machine_goes_on_with_ports_and_drives_of_its_own(
    folder: Path, state: Path
) -> None:
    launch = BOCHS.launch(Start(Hardware(), Path("/image"), state), folder)
    assert launch.command[1:3] == ["-q", "-r"]
    copy = Path(launch.command[3])
    assert (copy / "kvmtest").read_text() == "counters"
    config = (copy / "config").read_text()
    assert "/gone" not in config
    assert 'file="/built/bios.bin"' in config
    assert f'file="{folder}/parallel"' in config
    assert (state / "config").read_text() == SAVED


def environment(start: Start, folder: Path) -> dict[str, str]:
    return dict(BOCHS.launch(start, folder).environment)


def test_it_is_told_to_pass_two_stops_or_to_save_or_to_end_at_the_first(
    state: Path, tmp_path: Path
) -> None:
    starts = [
        (Start(Hardware(), Path("/image")), ("2", None)),
        (Start(Hardware(), Path("/image"), save=Path("/save here")), ("0", "/save here")),
        (Start(Hardware(), Path("/image"), state), ("0", None)),
        (Start(Hardware(), Path("/image"), state, Path("/save here")), ("0", "/save here")),
    ]
    for number, (start, told) in enumerate(starts):
        folder = tmp_path / str(number)
        folder.mkdir()
        variables = environment(start, folder)
        assert (variables["KVMTEST_PASSES"], variables.get("KVMTEST_SAVE")) == told


def test_its_environment_is_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BOCHSRC", "BXSHARE", "LD_PRELOAD", "KVMTEST_SAVE", "KVMTEST_CPU_FEATURES"):
        monkeypatch.setenv(name, "/elsewhere")
    variables = environment(Start(Hardware(), Path("/image")), folder)
    assert variables.keys() <= {"PATH", "HOME", "LANG", "KVMTEST_PASSES", "GLIBC_TUNABLES"}


def test_features_are_told_to_it(folder: Path) -> None:
    shown = Hardware(cpu_features=("rtm", "amx"))
    variables = environment(Start(shown, Path("/image")), folder)
    assert variables["KVMTEST_CPU_FEATURES"] == "rtm,amx"


def test_a_feature_that_it_can_not_show_is_refused() -> None:
    BOCHS.check(Hardware(cpu_features=("rtm",)))
    with pytest.raises(UsageError, match=r"--show-cpu-feature amx: .* can show rtm"):
        BOCHS.check(Hardware(cpu_features=("rtm", "amx")))


def test_a_machine_is_saved_where_its_counters_are(tmp_path: Path, state: Path) -> None:
    assert BOCHS.is_saved(state)
    (state / "kvmtest").unlink()
    assert not BOCHS.is_saved(state)
    assert not BOCHS.is_saved(tmp_path / "nowhere")


@pytest.mark.parametrize(("status", "well"), [(0, True), (1, False), (75, False), (-9, False)])
def test_it_ends_well_only_with_status_0(status: int, well: bool) -> None:
    assert BOCHS.ended_well(status) is well


def test_its_last_panic_is_its_complaint(folder: Path) -> None:
    (folder / "bochs.log").write_text("000i[CPU0  ] fine\n000e[SIM   ] >>PANIC<< damaged\n")
    assert BOCHS.complaint(folder) == "damaged"


def test_it_has_counters_can_save_and_lacks_nothing() -> None:
    emulator: Emulator = BOCHS
    assert emulator.can_save
    assert emulator.lacks == {}
    assert str(emulator.details["pmu"]).startswith("kvmtest's model")
    assert emulator.details["selftest"] == "passed: 7 numbers"


# What a machine's name depends on


def digest(emulator: BuiltBochs = BOCHS, hardware: Hardware | None = None) -> str:
    return emulator.machine_digest(hardware or Hardware())


CHANGES: dict[str, Callable[[pytest.MonkeyPatch, Path], object]] = {
    "MSRs": lambda patch, path: patch.setattr(configuration, "MSRS", path),
    "speed": lambda patch, _: patch.setattr(configuration, "INSTRUCTIONS_PER_SECOND", 5),
    "CPU model": lambda patch, _: patch.setattr(configuration, "CPU_MODEL", "haswell"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_machine_is_made_of_changes_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = digest()
    other = tmp_path / "msrs.def"
    other.write_text(configuration.MSRS.read_text() + "\n")
    CHANGES[change](monkeypatch, other)
    assert digest() != before


def test_another_build_changes_its_digest_and_its_place_does_not() -> None:
    assert digest(replace(BOCHS, build=Build(Path("/built"), "other"))) != digest()
    assert digest(replace(BOCHS, build=Build(Path("/elsewhere"), "digest"))) == digest()


@pytest.mark.parametrize(
    "hardware", [Hardware(cpus=2), Hardware(memory=768), Hardware(cpu_features=("rtm",))], ids=str
)
def test_the_hardware_changes_its_digest(hardware: Hardware) -> None:
    assert digest(hardware=hardware) != digest()


def test_where_kvmtest_is_does_not_change_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest()
    moved = tmp_path / "msrs.def"
    moved.write_bytes(configuration.MSRS.read_bytes())
    monkeypatch.setattr(configuration, "MSRS", moved)
    assert digest() == before
