"""kvmtest lab run: one line for an error, the console's end, an exit status."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from support.kernel_files import RELEASE, deb, kvm_modules, module, tree_files, write_tree
from support.lab_emulator import Emulator, evidence

from kvmtest.cli import main
from kvmtest.commands.lab_run import write
from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import load
from kvmtest.judge import Verdict
from kvmtest.lab.emulators.bochs.find import find
from kvmtest.lab.target import MACHINES
from kvmtest.target import Job, Outcome, TargetFailed

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    return Emulator.install(tmp_path, monkeypatch)


def lab_run(emulator: Emulator, *words: object) -> int:
    return main(["lab", "run", "--kernel", str(emulator.tree), *map(str, words)])


@pytest.mark.parametrize("status", [0, 1, 4])
def test_evidence_is_shown_and_kept_and_the_status_is_that_of_the_run_inside(
    emulator: Emulator, tmp_path: Path, capsys: Capture, status: int
) -> None:
    inside = evidence({"any.soak": Verdict.FAIL, "kernel.fix-present": Verdict.PASS})
    emulator.leaves(inside, status)
    output = tmp_path / "out"
    assert lab_run(emulator, "-o", output) == status
    names = ["console.log", "evidence.json", "junit.xml", "ktap.txt"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert load(output) == inside
    captured = capsys.readouterr()
    said = captured.out.splitlines()
    assert said[0].startswith("FAIL: ")
    assert said[0].endswith(f"  exit {status}")
    assert f"Evidence: {output}" in captured.out
    capsys.readouterr()
    assert main(["report", str(output), "-v"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 FAIL, 1 PASS"
    steps = captured.err.splitlines()
    assert steps[0] == f"kvmtest: lab: making the image of Linux {RELEASE}"
    assert "s in all (kernel " in steps[-1]
    assert "deciding" not in captured.err, "a machine's own lines are for a terminal"


def test_image_and_modules_can_be_given_in_two_packages(
    emulator: Emulator, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("debian")
    files = tree_files()
    image = {name: files.pop(name) for name in list(files) if name.startswith("boot/")}
    one = deb(tmp_path / "1.deb", image, package=f"linux-image-unsigned-{RELEASE}")
    two = deb(tmp_path / "2.deb", files, package=f"linux-modules-{RELEASE}")
    assert main(["lab", "run", "--kernel", str(one)]) == 3
    assert f"put linux-modules-{RELEASE} 6.12.7-1 beside" in capsys.readouterr().err
    assert main(["lab", "run", "--kernel", str(one), "--kernel", str(two)]) == 0
    details = json.loads(emulator.job()["environment"]["KVMTEST_LAB"])["details"]
    assert details["kernel"].count(RELEASE) == 2


def test_its_options_reach_the_run_inside(emulator: Emulator) -> None:
    words = ["--only", "any.soak", "--require", "witness:vmcs", "--require", "any.soak", "--cold"]
    words += ["--smi-source", "passive"]
    assert lab_run(emulator, *words) == 0
    assert emulator.starts() == ["cold"]
    job = (emulator.folder / "job").read_text()
    assert (
        '"--only=any.soak", "--require=witness:vmcs", "--require=any.soak", "--smi-source=passive"'
        in job
    )
    assert '"run", "--quiet"' in job
    assert "KVMTEST_LAB" in job


def test_parameters_of_kvms_modules_reach_the_machine_and_its_evidence(emulator: Emulator) -> None:
    parameter = "kvm_intel.enable_mediated_pmu=1"
    assert lab_run(emulator, "--kvm-parameter", parameter) == 0
    job = (emulator.folder / "job").read_text()
    assert '["modprobe", "kvm_intel", "nested=1", "enable_mediated_pmu=1"]' in job
    assert '["sh", "has-parameter", "kvm_intel", "enable_mediated_pmu", "Y|1"]' in job
    assert f'\\"kvm_parameters\\": \\"{parameter}\\"' in job


def test_a_parameter_of_another_machines_module_is_refused_before_anything_boots(
    emulator: Emulator, capsys: Capture
) -> None:
    assert lab_run(emulator, "--kvm-parameter", "kvm_amd.npt=0") == 2
    assert emulator.starts() == []
    said = "kvmtest: --kvm-parameter kvm_amd.npt=0: this machine's modules are kvm and kvm_intel\n"
    assert capsys.readouterr().err == said


def test_a_kernel_built_without_what_the_machine_needs_is_refused_before_anything_boots(
    emulator: Emulator, capsys: Capture
) -> None:
    write_tree(emulator.tree, {f"boot/config-{RELEASE}": b"CONFIG_64BIT=y\nCONFIG_KVM=m\n"})
    assert lab_run(emulator) == 3
    assert lab_run(emulator, "--bisect") == 125
    assert emulator.starts() == []
    first, again = capsys.readouterr().err.splitlines()
    assert first == again
    assert "can't run in the lab: it is built without CONFIG_BLK_DEV_INITRD" in first


@pytest.mark.parametrize("cold", [["--cold"], []])
def test_a_machine_that_panics_is_one_line_behind_the_end_of_its_console(
    emulator: Emulator, tmp_path: Path, capsys: Capture, cold: list[str]
) -> None:
    (emulator.folder / "panic").touch()
    output = tmp_path / "out"
    assert lab_run(emulator, "-o", output, *cold) == 3
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "  | booting",
        "  | Kernel panic - not syncing: no init",
        "kvmtest: the lab's machine failed: Kernel panic - not syncing: no init",
    ]
    assert (output / "console.log").read_text().splitlines()[0] == "booting"


def test_a_run_that_leaves_no_evidence_is_an_error_with_what_it_said(
    emulator: Emulator, capsys: Capture
) -> None:
    emulator.leaves(None, 0)
    assert lab_run(emulator) == 3
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "  | deciding",
        "kvmtest: kvmtest ended with status 0 in the lab's machine and left no evidence",
    ]


@pytest.mark.parametrize("text", ["", "{", '{"schema": "kvmtest-evidence/1"}', "\x1e"])
def test_evidence_that_can_not_be_read_is_an_error(
    emulator: Emulator, capsys: Capture, text: str
) -> None:
    (emulator.folder / "evidence.json").write_text(text)
    assert lab_run(emulator) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("kvmtest: evidence.json of the lab: ")


USELESS: list[list[str]] = [
    ["--only", "no.such"],
    ["--require", "no.such"],
    ["--require", "witness:none"],
    ["--kernel", "/nowhere"],
    ["--modules", "/nowhere"],
]


@pytest.mark.parametrize("words", USELESS, ids=" ".join)
def test_what_does_not_exist_is_refused_before_anything_boots(
    emulator: Emulator, capsys: Capture, words: list[str]
) -> None:
    assert lab_run(emulator, *words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert emulator.starts() == []
    assert not (emulator.cache.root / "image").exists()


def test_a_feature_that_can_not_be_shown_is_refused_before_anything_boots(
    emulator: Emulator, capsys: Capture
) -> None:
    assert lab_run(emulator, "--show-cpu-feature", "amx") == 2
    assert "the Intel machine can show rtm" in capsys.readouterr().err
    assert emulator.starts() == []


def test_a_feature_that_can_be_shown_is_named_in_the_evidence(emulator: Emulator) -> None:
    assert lab_run(emulator, "--show-cpu-feature", "rtm") == 0
    facts = json.loads(emulator.job()["environment"]["KVMTEST_LAB"])
    assert facts["details"]["shown_cpu_features"] == "rtm"


def test_without_an_emulator_what_to_mend_is_one_line(
    emulator: Emulator, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MACHINES, "intel", find)
    monkeypatch.setenv("KVMTEST_BOCHS_SOURCE", "/nowhere")
    monkeypatch.setenv("PATH", str(emulator.tree))
    assert lab_run(emulator) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "kvmtest: the lab has no emulator: KVMTEST_BOCHS_SOURCE: can't read /now"
    )


def test_a_folder_that_holds_files_is_refused_before_anything_boots(
    emulator: Emulator, tmp_path: Path, capsys: Capture
) -> None:
    assert lab_run(emulator, "-o", tmp_path) == 2
    assert "choose a new folder" in capsys.readouterr().err
    assert emulator.starts() == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--machine", "mips"],
        ["run", "--cpus", "3"],
        ["run", "--cpus", "many"],
        *(["run", "--deadline", text] for text in ("0", "-1", "nan", "inf", "1e9", "soon", "")),
        ["run", "stray"],
        ["run", "--col"],
        ["mutants", "--machine", "arm"],
        ["mutants", "stray"],
        ["nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_usage_error(capsys: Capture, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["lab", *words])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_arguments_after_two_dashes_are_refused(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["lab", "run", "--", "-v"])
    assert "error: unrecognized arguments: -- -v" in capsys.readouterr().err


def test_the_deadline_is_that_of_the_machine(emulator: Emulator, capsys: Capture) -> None:
    script = (emulator.folder / "bochs").read_text()
    hanging = script.replace('tell \'{"stage": "awake"}\'', "exec sleep 1000")
    (emulator.folder / "bochs").write_text(hanging)
    assert lab_run(emulator, "--cold", "--deadline", "1.4") == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "did not end within 1 s (it reached: booted, ready); allow more with --deadline" in last


def built(folder: Path, *, release: str = RELEASE) -> Path:
    """What building KVM alone leaves, with a change in both modules."""
    return write_tree(
        folder,
        {
            "kvm.ko": module("kvm", "irqbypass", release=release, body=b"changed"),
            "kvm-intel.ko": module("kvm_intel", "kvm", release=release, body=b"changed"),
            "kvm-amd.ko": module("kvm_amd", "kvm", "ccp", release=release),
            "kvm.o": b"object",
            "vmx/vmx.o": b"object",
        },
    )


def test_modules_of_kvm_alone_are_laid_over_in_the_saved_machine_of_the_kernel_s_own(
    emulator: Emulator, tmp_path: Path
) -> None:
    assert lab_run(emulator) == 0
    assert emulator.starts() == ["booted", "saved as booted", "ready", "saved as ready"]
    folder = built(tmp_path / "arch/x86/kvm")
    assert lab_run(emulator, "--modules", folder) == 0
    assert emulator.starts() == ["saved as ready"]
    job = emulator.job()
    assert job["commands"][:2] == [["rmmod", "kvm_intel"], ["rmmod", "kvm"]]
    details = json.loads(job["environment"]["KVMTEST_LAB"])["details"]
    told = details["modules"]
    assert details["modules_laid_over"] == "kvm.ko, kvm-intel.ko"
    for name in ("kvm.ko", "kvm-intel.ko"):
        assert f"{name} (sha256 {sha256((folder / name).read_bytes()).hexdigest()})" in told
    assert "kvm-amd" not in told
    assert "laid over the kernel's own" in told


def test_a_full_tree_of_modules_takes_the_place_of_the_kernel_s(
    emulator: Emulator, tmp_path: Path
) -> None:
    assert lab_run(emulator) == 0
    emulator.starts()
    changed = kvm_modules() | {"kernel/arch/x86/kvm/kvm.ko": module("kvm", "irqbypass", body=b"x")}
    assert lab_run(emulator, "--modules", write_tree(tmp_path / "all", changed)) == 0
    assert emulator.starts()[:2] == ["booted", "saved as booted"]
    job = emulator.job()
    assert job["commands"] == []


@pytest.mark.parametrize("cold", [["--cold"], []], ids=["cold", "saved"])
def test_modules_of_another_kernel_are_refused_before_anything_boots(
    emulator: Emulator, tmp_path: Path, capsys: Capture, cold: list[str]
) -> None:
    folder = built(tmp_path / "built", release="6.12.8")
    assert lab_run(emulator, "--modules", folder, *cold) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no matching modules for kernel {RELEASE}" in line
    assert "built for 6.12.8" in line
    assert emulator.starts() == []


def test_a_folder_of_modules_is_named_in_the_evidence_of_a_run(
    emulator: Emulator, tmp_path: Path
) -> None:
    outcome = emulator.target().run(Job(modules=built(tmp_path / "built")))
    assert outcome.exit_status == 0
    assert [result.id for result in outcome.evidence.results] == ["any.soak"]
    assert "kvm-intel.ko (sha256 " in emulator.job()["environment"]["KVMTEST_LAB"]


def test_a_failed_machine_s_console_is_that_of_the_exception(emulator: Emulator) -> None:
    (emulator.folder / "panic").touch()
    with pytest.raises(TargetFailed) as caught:
        emulator.target(cold=True).run(Job())
    assert caught.value.tail.splitlines()[0] == "booting"


# Writing


def outcome_of(files: dict[str, bytes], console: str = "") -> Outcome:
    return Outcome(0, evidence({}), files, console)


def test_all_files_and_the_console_are_written(tmp_path: Path) -> None:
    write(outcome_of({"a": b"1", "b": b"\0"}, "é\n"), tmp_path)
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert held == {"a": b"1", "b": b"\0", "console.log": "é\n".encode()}


@pytest.mark.parametrize("name", ["folder", "n" * 300])
def test_a_file_that_can_not_be_written_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(EnvironmentUnfit, match=r"can't write .*; choose another -o DIR"):
        write(outcome_of({name: b""}), tmp_path)


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write(outcome_of({"../a": b"", "/tmp/b": b""}), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert {"a", "b"} <= {path.name for path in folder.iterdir()}
