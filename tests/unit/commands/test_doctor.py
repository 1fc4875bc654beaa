"""doctor says first what the machine is good for and what to do, and each missing thing once."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stand_in import KNOB, intel_host, write

from kvmtest.checks.preconditions import lacking
from kvmtest.cli import main
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.properties import PROPERTIES
from kvmtest.report import terminal

Capture = pytest.CaptureFixture[str]


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


def shown(root: Path, capsys: Capture) -> str:
    assert main(["doctor", "--root", str(root)]) == 0
    return capsys.readouterr().out


def test_the_first_line_is_what_the_machine_is_good_for(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path)
    first, second = shown(tmp_path, capsys).splitlines()[:2]
    assert first.startswith("This machine can prove ")
    assert second.startswith("next: kvmtest doctor  on the machine itself")
    assert main(["doctor", "--json", "--root", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["good_for"], told["next"]) == (first, ["kvmtest doctor"])


@pytest.mark.parametrize("there", ["all", "nothing"])
def test_each_missing_thing_is_told_once_and_else_by_its_number(
    tmp_path: Path, capsys: Capture, there: str
) -> None:
    root = tmp_path / "host"
    intel_host(root) if there == "all" else root.mkdir()
    out = shown(root, capsys)
    facts, _, table = out.partition("missing here")
    numbers = re.findall(r"^(\d+) ", table, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    machine = Machine(Tree(root))
    wanted = {missing for p in PROPERTIES for missing in lacking(machine, p)}
    assert len(numbers) == len(wanted)
    # Sources of SMIs have reasons of their own.
    before, _, after = facts.partition("SMI by")
    told = " ".join(f"{before} {after.partition('lockdown')[2]}".split())
    assert "missing: see" in told
    assert not [missing for missing in wanted if missing.what in told]
    # Every number that anything refers to is in the table.
    referred = re.findall(r"see ([\d ]+)$|  ([\d ]+)$", facts, re.MULTILINE)
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
