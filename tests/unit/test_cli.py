"""The command line: what it takes, what it prints, and which status it ends with."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from support.stand_in import BTF, KNOB, UNFIXED, intel_host, kvm_btf, write

import kvmtest
import kvmtest.cli as cli_module
from kvmtest.cli import main
from kvmtest.errors import EnvironmentUnfit, KvmtestError, UsageError
from kvmtest.evidence import Evidence, Result, save
from kvmtest.judge import Verdict
from kvmtest.properties import PROPERTIES
from kvmtest.smi import BY_NAME, SOURCES

Capture = pytest.CaptureFixture[str]


def sample(tmp_path: Path) -> Path:
    """Write the evidence of a small run."""
    results = [
        Result("kernel.fix-present", Verdict.PASS, "btf: yes"),
        Result("any.soak", Verdict.SKIP, "KVM here is kvm_pvm"),
    ]
    versions = {"version": "0.1.0", "command": [], "started": "S", "ended": "E"}
    evidence = Evidence(
        {**versions, "interrupted": False},
        {"kind": "host", "virtualisation": "bare metal", "cpu": {"model_name": "Xeon"}},
        {},
        {"release": "6.1.0"},
        {"changes": [], "failures": [], "recovered": []},
        {"missing": None, "records": 0, "lost": 0},
        results,
        0,
    )
    path = tmp_path / "evidence.json"
    save(evidence, path)
    return path


# Statuses


def put_for_run(monkeypatch: pytest.MonkeyPatch, function: Callable[..., int]) -> None:
    """Have ``kvmtest run`` be another function, with a parser of its own."""
    monkeypatch.setattr(cli_module, "_run", function)
    monkeypatch.setattr(cli_module, "_parser", cli_module._parser.__wrapped__)


@pytest.mark.parametrize(
    ("error", "status", "under_bisect"),
    [
        (KvmtestError("broken; mend it"), 3, 125),
        (EnvironmentUnfit("unfit; mend it"), 3, 125),
        (UsageError("wrong; mend it"), 2, 125),
        (KeyboardInterrupt(), 130, 130),
        (BrokenPipeError(), 141, 141),
        (OSError(28, "No space left on device"), 3, 125),
    ],
)
def test_an_error_of_a_command_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    error: BaseException,
    status: int,
    under_bisect: int,
) -> None:
    def broken(options: object) -> int:
        raise error

    put_for_run(monkeypatch, broken)
    assert main(["run"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == (0 if isinstance(error, BrokenPipeError) else 1)
    assert main(["run", "--bisect"]) == under_bisect


def test_a_bug_of_our_own_never_looks_like_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(options: object) -> int:
        raise ZeroDivisionError

    put_for_run(monkeypatch, broken)
    assert main(["run"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert main(["run", "--bisect"]) == 125


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--"],
        ["nonsense"],
        ["run", "--nonsense"],
        ["run", "--onl", "any.soak"],
        ["run", "stray"],
        ["run", "-o"],
        ["report"],
        ["report", "x", "--ktap", "--junit", "y"],
        ["kernel"],
        ["smi"],
        ["smi", "probe", "--rate", "0"],
        ["smi", "probe", "--count", "0"],
        ["smi", "probe", "--source", "magic"],
        ["run", "--smi-source", "magic"],
        ["run", "--root", "/nowhere"],
        ["run", "--root", "/proc/version"],
        ["doctor", "--root", "n" * 300],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_usage_error(capsys: Capture, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_a_usage_error_does_not_tell_git_bisect_that_the_kernel_is_bad(capsys: Capture) -> None:
    assert main(["run", "--bisect", "--nonsense"]) == 125
    assert "--nonsense" in capsys.readouterr().err


def test_a_root_whose_links_go_in_a_circle_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SystemExit):
        main(["doctor", "--root", str(tmp_path / "loop")])
    assert "error: argument --root: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "vmx.entry.frsh"],
        ["--require", "witness:nobody"],
        ["--only", "any.soak", "--require", "witness:btf"],
        ["--only", "any.soak", "--require=any.no-warnings"],
    ],
    ids=" ".join,
)
def test_what_a_lab_s_run_would_refuse_costs_no_boot(capsys: Capture, words: list[str]) -> None:
    assert main(["lab", "run", "--kernel", "/none", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "kernel" not in said
    assert main(["run", *words]) == 2
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(
    "words", [[], ["run"], ["lab", "run"], ["lab", "mutants"], ["smi", "probe"]]
)
def test_help_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: list[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_arguments_after_two_dashes_are_for_run_alone(capsys: Capture) -> None:
    assert main(["list", "--", "-v"]) == 2
    assert capsys.readouterr().err == "kvmtest: only run takes arguments after --\n"


def test_one_command_s_words_are_not_another_s() -> None:
    first, second = (
        cli_module._parser().parse_args(["run", "--only", name]) for name in ("a.b", "c.d")
    )
    assert (first.only, second.only) == (["a.b"], ["c.d"])


def test_the_version_and_help_are_printed(capsys: Capture) -> None:
    for word, said in (("--version", f"kvmtest {kvmtest.__version__}"), ("--help", "COMMAND")):
        with pytest.raises(SystemExit) as caught:
            main([word])
        assert caught.value.code == 0
        assert said in capsys.readouterr().out


def test_the_help_of_run_tells_the_exit_status(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "0 all decided properties PASS" in capsys.readouterr().out


def test_the_help_of_run_names_every_smi_source(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    unasked, _, by_name = "".join(said.split()).partition("bynamealone:")
    for name in SOURCES:
        assert name in (by_name if name in BY_NAME else unasked)


def test_the_words_of_the_process_are_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "argv", ["kvmtest", "list", "--json"])
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        assert main() == 0
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
    assert capsys.readouterr().out.startswith("[")


# list, doctor, kernel inspect, report


def test_the_list_as_json_is_the_table(capsys: Capture) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == json.loads(json.dumps([asdict(p) for p in PROPERTIES]))


def test_the_list_names_every_property_and_claim(capsys: Capture) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(p.id in out for p in PROPERTIES)


def empty(root: Path) -> None:
    root.mkdir()


def junk(root: Path) -> None:
    tree = intel_host(root, btf=b"junk")
    write(tree, "/proc/cpuinfo", b"\xff\0junk")
    write(tree, "/sys/devices/system/cpu/online", "junk")
    write(tree, "/sys/kernel/security/lockdown", b"\xff[junk")


TREES: dict[str, Callable[[Path], object]] = {"intel": intel_host, "empty": empty, "junk": junk}


def endless(root: Path) -> None:
    """Make a tree whose files have no end, or wait for a writer."""
    tree = intel_host(root)
    files = [path for path in root.rglob("*") if path.is_file()]
    for at, path in enumerate(files):
        # /proc/PID says who has what open; the lock is the run's own.
        path.unlink()
        if at % 2:
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    assert len(files) > 10
    assert tree.read("/proc/cpuinfo") is None


TREES["endless"] = endless


@pytest.mark.parametrize("make", TREES)
def test_doctor_answers_for_any_tree(tmp_path: Path, capsys: Capture, make: str) -> None:
    TREES[make](tmp_path / "root")
    words = ["doctor", "--root", str(tmp_path / "root")]
    assert main([*words, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert set(answers["properties"]) == {p.id for p in PROPERTIES}
    assert answers["machine"]["kind"] == "stand-in"
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(p.id in out for p in PROPERTIES)


def test_doctor_tells_what_can_be_decided_and_what_is_missing(
    tmp_path: Path, capsys: Capture
) -> None:
    tree = intel_host(tmp_path)
    tree.path(KNOB).unlink()
    main(["doctor", "--root", str(tmp_path), "--json"])
    answers = json.loads(capsys.readouterr().out)["properties"]
    assert answers["kernel.fix-present"] == []
    (missing, *_) = answers["host.knob-effective"]
    assert "freeze_on_smi" in missing["missing"]
    assert missing["remedy"]


@pytest.mark.parametrize(
    ("btf", "status", "said"),
    [
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4), 0, "present"),
        (UNFIXED, 1, "absent"),
        (kvm_btf("name"), 4, "unknown"),
        (b"[/] no [bold] BTF", 4, "unknown"),
    ],
)
def test_inspect_says_whether_the_fix_is_there(
    tmp_path: Path, capsys: Capture, btf: bytes, status: int, said: str
) -> None:
    intel_host(tmp_path, btf=btf)
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == status
    out = capsys.readouterr().out
    assert any(line.startswith(f"{said}: ") for line in out.splitlines())


def test_inspect_without_btf_is_unknown(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path).path(BTF).unlink()
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == 4
    assert "unknown: " in capsys.readouterr().out


def test_a_report_is_shown_in_each_form(tmp_path: Path, capsys: Capture) -> None:
    path = sample(tmp_path)
    assert main(["report", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Xeon" in shown
    assert shown.endswith("1 PASS, 1 SKIP\n")
    assert main(["report", str(tmp_path), "--ktap"]) == 0
    assert capsys.readouterr().out.startswith("KTAP version 1\n1..2\n")
    assert main(["report", str(path), "--junit", str(tmp_path / "j.xml")]) == 0
    assert "<testsuites>" in (tmp_path / "j.xml").read_text()
    assert capsys.readouterr().out == ""


def test_restore_without_a_dead_run_says_so(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path)
    assert main(["restore", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to restore: no dead run left anything\n"
