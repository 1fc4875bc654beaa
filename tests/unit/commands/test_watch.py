"""kvmtest watch takes its options, names what it lacks, and ends with the status of the verdict."""

import json
from pathlib import Path

import pytest
from support.watched_host import PID, watched_host

from kvmtest.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> str:
    tree = watched_host(tmp_path).tree
    tree.path("/sys/devices/cpu/freeze_on_smi").unlink()
    tree.path("/sys/kernel/tracing/events/kvm/kvm_entry/enable").unlink()
    tree.path("/sys/kernel/tracing/events/kvm/kvm_entry").rmdir()
    return str(tree.root)


def test_it_names_what_it_lacks_and_decides_nothing(root: str, capsys: Capture) -> None:
    assert main(["watch", str(PID), "--seconds", "0.01", "--root", root]) == 4
    out = capsys.readouterr().out
    assert "qemu (pid 77), vCPUs: 2" in out
    assert "freeze_on_smi" in out
    assert "SKIP nothing was decided, for what is missing" in out


def test_it_prints_json(root: str, capsys: Capture) -> None:
    words = ["watch", str(PID), "--json", "--no-stop", "--seconds", "0.01", "--root", root]
    assert main(words) == 4
    seen = json.loads(capsys.readouterr().out)
    assert [each["thread"] for each in seen["vcpus"]] == [78, 79]
    assert (seen["judgement"]["verdict"], seen["exit_status"]) == ("SKIP", 4)


def test_a_process_without_vcpus_is_a_mistake_of_the_user(root: str, capsys: Capture) -> None:
    assert main(["watch", "5", "--root", root]) == 2
    assert "no process has the ID 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["x"], ["0"], ["-1"], ["77", "--toggles", "-1"], ["77", "--seconds", "nan"], []],
)
def test_what_is_no_number_is_refused(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["watch", *words])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") >= 1
