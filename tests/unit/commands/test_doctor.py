"""doctor says first whether SMIs pollute counts and what to do, then what the machine is good for.

Each missing thing is told once, at the end; the first lines have the reason in short.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stand_in import KNOB, UNFIXED, intel_host, write

from kvmtest.checks.preconditions import lacking
from kvmtest.cli import main
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.properties import PROPERTIES
from kvmtest.report import terminal
from kvmtest.smi import all_sources

Capture = pytest.CaptureFixture[str]
DOCTOR = ("doctor", "--seconds", "0.01", "--root")


def empty(root: Path) -> None:
    root.mkdir()


def junk(root: Path) -> None:
    tree = intel_host(root, btf=b"junk")
    write(tree, "/proc/cpuinfo", b"\xff\0junk")
    write(tree, "/sys/devices/system/cpu/online", "junk")
    write(tree, "/sys/kernel/security/lockdown", b"\xff[junk")


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


TREES: dict[str, Callable[[Path], object]] = {
    "intel": intel_host, "empty": empty, "junk": junk, "endless": endless
}  # fmt: skip


@pytest.mark.parametrize("make", TREES)
def test_doctor_answers_for_any_tree(tmp_path: Path, capsys: Capture, make: str) -> None:
    TREES[make](tmp_path / "root")
    words = [*DOCTOR, str(tmp_path / "root")]
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
    main([*DOCTOR, str(tmp_path), "--json"])
    answers = json.loads(capsys.readouterr().out)["properties"]
    assert answers["kernel.fix-present"] == []
    (missing, *_) = answers["host.knob-effective"]
    assert "freeze_on_smi" in missing["missing"]
    assert missing["remedy"]


def shown(root: Path, capsys: Capture) -> str:
    assert main([*DOCTOR, str(root)]) == 0
    return capsys.readouterr().out


def test_the_first_five_lines_answer_whoever_counts_events(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path, btf=UNFIXED)
    *five, blank = shown(tmp_path, capsys).splitlines()[:6]
    assert [re.sub(r"0\.0\d+ s", "0.01 s", line.rstrip()) for line in five] == [
        "freeze_on_smi  on",
        "on every CPU   no: MSR 0x1d9 bit 14 is 0 on 2 of 2",
        "in guests      lost: this kernel lacks the fix (types)",
        "SMIs           0 a CPU in 0.01 s (MSR 0x34); 0 since reset",
        "what to do     echo 0 > /sys/devices/cpu/freeze_on_smi; then 1; look again",
    ]
    assert not blank
    assert main([*DOCTOR, str(tmp_path), "--json"]) == 0
    pollution = json.loads(capsys.readouterr().out)["pollution"]
    assert (pollution["freeze_on_smi"], pollution["bits"]) == (1, {"0": 0, "1": 0})
    assert pollution["fix"] == {"state": "absent", "evidence": ["types"]}
    assert pollution["smis"]["by_cpu"] == {"0": 0, "1": 0}


def test_what_the_machine_is_good_for_comes_next(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path)
    first, second = shown(tmp_path, capsys).splitlines()[6:8]
    assert first.startswith("This machine can prove ")
    assert second.startswith("next: kvmtest doctor  on the machine itself")
    assert main([*DOCTOR, str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["good_for"], told["next"]) == (first, ["kvmtest doctor"])


@pytest.mark.parametrize("there", ["all", "nothing"])
def test_what_is_there_comes_before_what_is_missing(
    tmp_path: Path, capsys: Capture, there: str
) -> None:
    root = tmp_path / "host"
    intel_host(root) if there == "all" else root.mkdir()
    _, _, rest = shown(root, capsys).partition("\n\n")
    usable, _, lacking = rest.partition("can't be decided here")
    assert "missing" not in usable
    assert "witnesses" in usable
    for name in ("lockdown", "SMIs by efivar", "witness runflags"):
        assert name not in usable
        assert name in lacking


def test_nothing_is_counted_where_nobody_wants_to_wait(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path)
    assert main(["doctor", "--seconds", "0", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^SMIs           not counted: --seconds is 0 \(see \d+\) *$", out, re.MULTILINE
    )
    assert main(["doctor", "--seconds", "0", "--json", "--root", str(tmp_path)]) == 0
    smis = json.loads(capsys.readouterr().out)["pollution"]["smis"]
    assert smis["missing"] == "SMIs were not counted: --seconds is 0"


@pytest.mark.parametrize("seconds", ["-1", "nan", "x", "1e9", "0.001"])
def test_a_time_that_is_none_is_refused(seconds: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--seconds", seconds])
    assert end.value.code == 2
    assert f"{seconds}: give 0, or 0.01 to 3600 seconds" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["all", "nothing"])
def test_each_missing_thing_is_told_once_and_else_by_its_number(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.setattr(terminal, "PIPE_WIDTH", 1000)  # A row of a table is one line.
    root = tmp_path / "host"
    intel_host(root) if there == "all" else root.mkdir()
    out = shown(root, capsys)
    facts, _, table = out.partition("missing here")
    numbers = re.findall(r"^(\d+) ", table, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    machine = Machine(Tree(root))
    wanted = {missing for p in PROPERTIES for missing in lacking(machine, p)}
    wanted |= {s for s in all_sources(machine).values() if isinstance(s, Missing)}
    wanted |= {f for f in (machine.lockdown, machine.secure_boot) if isinstance(f, Missing)}
    # The first five lines say why they have no better answer.
    answers, _, rest = facts.partition("\n\n")
    told = " ".join(rest.split())
    assert not [missing for missing in wanted if missing.what in told]
    whats = re.findall(r"^\d+ +(.*?)(?: {2,}.*)?$", table, re.MULTILINE)
    assert len(set(whats)) == len(whats) == len(numbers)
    # Why there is no source of SMIs is told by the sources' own rows.
    assert {m.what for m in wanted if not m.what.startswith("no SMI source (")} <= set(whats)
    # Every number that anything refers to is in the table.
    referred = re.findall(r" \(see (\d+)\) *$|  ([\d ]+)$", facts, re.MULTILINE)
    assert ("(see " in answers) == (there == "nothing")
    assert {n for pair in referred for n in " ".join(pair).split()} <= set(numbers)


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("make", ["intel", "empty"])
def test_it_fits_any_terminal_and_breaks_no_id(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, make: str, width: int
) -> None:
    monkeypatch.setattr(terminal, "PIPE_WIDTH", width)
    root = tmp_path / "host"
    intel_host(root) if make == "intel" else root.mkdir()
    out = shown(root, capsys)
    assert max(map(len, out.splitlines())) <= width
    assert all(p.id in out.split() for p in PROPERTIES)
