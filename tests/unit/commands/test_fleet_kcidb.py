"""A fleet leaves a document for KernelCI's database, of all evidence that can be read."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.fleets import keep

from kvmtest.commands import fleet_kcidb as module
from kvmtest.commands.fleet_kcidb import write_kcidb
from kvmtest.evidence import Evidence, load
from kvmtest.judge import Verdict

Capture = pytest.CaptureFixture[str]


def test_every_run_is_in_the_document_under_its_place(tmp_path: Path, capsys: Capture) -> None:
    for place in ("a/old/1", "a/new/1", "b/old/1"):
        keep(tmp_path, place, {"any.soak": Verdict.PASS}, release=place.split("/")[1])
    (tmp_path / "b/old/1/evidence.json").write_text("{")
    write_kcidb(tmp_path)
    data = json.loads((tmp_path / "kcidb.json").read_text())
    assert [each["misc"]["run"] for each in data["tests"]] == ["a/new/1", "a/old/1"]
    assert "left out: " in capsys.readouterr().err


def test_runs_come_in_their_order_and_who_dies_reading_one_leaves_out_that_one(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in "abcde":
        keep(tmp_path, f"{place}/k/1", {"any.soak": Verdict.PASS}, release=place)
    (tmp_path / "b/k/1/evidence.json").write_text("die")

    def read(file: Path) -> Evidence:
        if file.read_text() == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return load(file)

    monkeypatch.setattr(module, "load", read)
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    write_kcidb(tmp_path)
    data = json.loads((tmp_path / "kcidb.json").read_text())
    assert [each["misc"]["run"] for each in data["tests"]] == [f"{n}/k/1" for n in "acde"]
    assert len(data["builds"]) == 4
    assert f"left out: {tmp_path}/b/k/1/evidence.json: its process" in capsys.readouterr().err


def test_without_evidence_there_is_no_document(tmp_path: Path) -> None:
    write_kcidb(tmp_path)
    assert list(tmp_path.iterdir()) == []
    keep(tmp_path, "a/old/1", {"any.soak": Verdict.PASS})
    write_kcidb(tmp_path)
    (tmp_path / "a/old/1/evidence.json").write_text("{")
    write_kcidb(tmp_path)
    assert not (tmp_path / "kcidb.json").exists()


def test_without_kcidb_io_there_is_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, "a/old/1", {"any.soak": Verdict.PASS})
    monkeypatch.setattr("kvmtest.commands.fleet_kcidb.find_spec", lambda name: None)
    write_kcidb(tmp_path)
    assert not (tmp_path / "kcidb.json").exists()
