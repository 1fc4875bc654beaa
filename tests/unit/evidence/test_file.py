"""Evidence files are read whole and sound or refused in one line, and written whole or not."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from support.evidence_samples import evidence_of
from support.evidence_strategies import EVIDENCE
from support.stand_in import as_nobody, fill, small_disk

from kvmtest.errors import EnvironmentUnfit
from kvmtest.evidence import SCHEMA, Evidence, EvidenceUnreadable, Result, load, save
from kvmtest.evidence.file import load_verdicts, loads, write_whole
from kvmtest.judge import Absence, Reading, Role, Verdict
from kvmtest.missing import Missing


def sample() -> Evidence:
    result = Result(
        "kernel.fix-present",
        Verdict.PASS,
        "btf: yes",
        0.25,
        [
            Reading("btf", Role.CONTROL, "the old member", True, True, 1.5, {"in": "vmlinux"}),
            Reading("btf", Role.CLAIM, "the new member", True, True, 2.5),
            Reading("btf", Role.MEASURE, "copies", 3, None, 3.5),
        ],
        [Absence("vmcs", Missing("KVM here is kvm_pvm"))],
        [Missing("nothing", "nowhere")],
    )
    return evidence_of([result])


def refused(path: Path) -> str:
    """Return the one line with which the file is refused."""
    with pytest.raises(EvidenceUnreadable) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}")
    assert "\n" not in line
    assert ";" in line, "no word of what to do"
    return line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(EVIDENCE)
def test_what_was_saved_is_loaded(tmp_path: Path, evidence: Evidence) -> None:
    path = tmp_path / "evidence.json"
    save(evidence, path)
    assert load(path) == evidence
    assert load(tmp_path) == evidence, "a run's folder stands for the file in it"
    assert [entry.name for entry in tmp_path.iterdir()] == ["evidence.json"]


def test_verdicts_are_what_evidence_is_without_readings(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    save(sample(), path)
    results = [replace(each, readings=[], absences=[]) for each in sample().results]
    assert load_verdicts(path) == replace(sample(), results=results)


def test_readings_are_checked_where_they_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    save(sample(), path)
    path.write_text(path.read_text().replace('"role": "claim"', '"role": "rumour"'))
    with pytest.raises(EvidenceUnreadable, match=r"readings\[1\].role: must be one of"):
        load_verdicts(path)


def test_evidence_may_come_as_text(tmp_path: Path) -> None:
    save(sample(), tmp_path / "evidence.json")
    text = (tmp_path / "evidence.json").read_text()
    assert loads(text, Path("of the lab")) == sample()
    with pytest.raises(EvidenceUnreadable, match=r"^of the lab: not JSON, or cut short .*; copy"):
        loads(text[:-2], Path("of the lab"))


# Reading what is no evidence


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "evidence.json"
    save(sample(), path)
    return path


def test_the_sample_itself_is_sound(path: Path) -> None:
    assert load(path) == sample()


def test_evidence_cut_short_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    assert len(whole) > 10 * 97
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        assert "not JSON, or cut short" in refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON, or cut short"),
        (b"\x7fELF\x02\x01\xff\xfe", "this is not text"),
        (b"\0" * 100, "not JSON"),
        (b"KTAP version 1\n1..0\n", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"schema":' * 100_000, "nested too deeply"),
        (b"[]", "it has no schema"),
        (b"null", "it has no schema"),
        (b"{}", "it has no schema"),
        (b'{"schema": {"a": 1}}', "its schema is"),
        (b'{"schema": "kvmtest-evidence/2"}', "its schema is kvmtest-evidence/2"),
        (b'{"schema": "kvmtest-evidence/1"}', "must contain"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_evidence_is_refused(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    assert said in refused(path)


def spoil(path: Path, spoiler: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(path.read_text())
    spoiler(data)
    path.write_text(json.dumps(data))
    return refused(path)


SPOILERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "$.exit_status": lambda d: d.update(exit_status=256),
    "$.results[0].verdict": lambda d: d["results"][0].update(verdict="GREEN"),
    "$.results[0].id": lambda d: d["results"][0].update(id="Fix Present"),
    "$.results[0].reason": lambda d: d["results"][0].update(reason=""),
    "$.results[0].readings[1].role": lambda d: d["results"][0]["readings"][1].update(role="proof"),
    "$.results[0].readings[0].observed": lambda d: d["results"][0]["readings"][0].update(
        observed=[1]
    ),
    "$.results[0].absences[0]": lambda d: d["results"][0]["absences"][0].pop("missing"),
    "$.results[0]": lambda d: d["results"][0].update(extra=1),
    "$.machine.kind": lambda d: d["machine"].update(kind="dream"),
    "$.machine.cpu": lambda d: d["machine"].update(cpu="a CPU"),
    "$.machine.lab.details": lambda d: d["machine"].update(
        lab={"emulator": "", "model": "", "version": "", "lacks": {}, "details": []}
    ),
    "$.summary": lambda d: d["summary"].pop("PASS"),
    "$.journal": lambda d: d.update(journal=[]),
    "$.kernel_log.lost": lambda d: d["kernel_log"].update(lost=-1),
    "$": lambda d: d.pop("host"),
}


@pytest.mark.parametrize("place", SPOILERS)
def test_a_field_that_does_not_fit_the_schema_is_named(path: Path, place: str) -> None:
    assert spoil(path, SPOILERS[place]).startswith(f"{path}: {place}: ")


@pytest.mark.parametrize(("digits", "is_read"), [(77, True), (79, False), (400, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_whole_number_that_nothing_can_be_computed_of_is_refused(
    path: Path, digits: int, is_read: bool, sign: int
) -> None:
    text = json.loads(path.read_text())
    text["results"][0]["readings"][2]["observed"] = sign * 10 ** (digits - 1)
    path.write_text(json.dumps(text))
    if is_read:
        assert load(path).results[0].readings[2].observed == sign * 10 ** (digits - 1)
    else:
        assert "a whole number of" in refused(path)


def test_deep_nesting_in_a_sound_place_is_borne_or_refused(path: Path) -> None:
    deep = "[" * 400 + "]" * 400
    path.write_text(path.read_text().replace('"cpu": {', f'"cpu": {{"a": {deep}, '))
    assert load(path).machine.cpu


def test_a_long_text_in_the_wrong_place_is_not_repeated_whole(path: Path) -> None:
    assert len(spoil(path, lambda d: d["machine"].update(kind="x" * 10000))) < 500


@pytest.mark.parametrize("name", ["nowhere", "evidence.json/inside", "n" * 300])
def test_a_path_that_leads_nowhere_is_refused(path: Path, name: str) -> None:
    assert "name an evidence.json" in refused(path.parent / name)


def test_a_folder_without_evidence_is_refused(tmp_path: Path) -> None:
    assert "evidence.json: No such file" in refused(tmp_path)
    (tmp_path / "evidence.json").mkdir()
    assert "Is a directory" in refused(tmp_path)


def test_evidence_behind_a_closed_door_is_refused(path: Path) -> None:
    path.parent.chmod(0o700)
    with as_nobody():
        assert "Permission denied" in refused(path)


# Writing


def test_what_does_not_fit_the_schema_is_not_written(tmp_path: Path) -> None:
    evidence = sample()
    evidence = replace(evidence, machine=replace(evidence.machine, kind="dream"))
    with pytest.raises(EnvironmentUnfit, match=r"machine\.kind"):
        save(evidence, tmp_path / "evidence.json")
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_unchecked_is_checked_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    evidence = sample()
    save(evidence, path, unchecked=True)
    assert load(path) == evidence
    wrong = replace(evidence, exit_status=256)
    save(wrong, path, unchecked=True)
    assert "exit_status" in refused(path)


def test_a_full_disk_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    small_disk(disk)
    try:
        path = disk / "evidence.json"
        write_whole(path, "old")
        fill(disk)
        with pytest.raises(EnvironmentUnfit, match=r"can't write .* No space left on device; free"):
            write_whole(path, "new" * 100_000)
        assert path.read_text() == "old"
        assert {entry.name for entry in disk.iterdir()} == {"evidence.json", "filler"}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["nowhere/x", "file/x", "file/", ".", "n" * 300, "folder"])
def test_a_place_that_takes_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "held").touch()
    monkeypatch.chdir(tmp_path)
    if name == "file/":
        name = "file/./x"
    with pytest.raises(EnvironmentUnfit, match=r"^can't write .*; free some space or choose"):
        write_whole(Path(name), "text")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", "a\udcffb")
    assert (tmp_path / "x").read_text() == "a\\udcffb"


def test_the_schema_s_name_is_that_of_the_model() -> None:
    assert SCHEMA == "kvmtest-evidence/1"
