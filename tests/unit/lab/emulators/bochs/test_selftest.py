"""The judge of the self-test, on recorded and on broken output, and on emulators that misbehave."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.cache import Cache
from kvmtest.lab.emulators.bochs import selftest
from kvmtest.lab.emulators.bochs.configuration import Variant
from kvmtest.lab.emulators.bochs.selftest import (
    Check,
    Program,
    SelfTest,
    SelfTestFailed,
    judge,
    proved,
    run,
)
from kvmtest.lab.emulators.emulator import Launch

RECORDED = Path(__file__).parents[4] / "recorded"
BORDER = "before-saving 1\n"


def recorded(cpus: int) -> list[str]:
    """What the two processes of a machine printed."""
    text = (RECORDED / f"selftest-{cpus}.txt").read_text()
    first, border, second = text.partition(BORDER)
    return [first + border, second]


def with_line(cpus: int, name: str, line: str) -> list[str]:
    """Return that output with another line in place of that of ``name``."""
    return [
        "".join(
            line if one.startswith(f"{name} ") else one for one in output.splitlines(keepends=True)
        )
        for output in recorded(cpus)
    ]


EVERY = [(cpus, check) for cpus in (1, 2) for check in judge(cpus, recorded(cpus)).checks]


def line_of(check: Check) -> str:
    return check.name.partition("/")[2]


@pytest.mark.parametrize("cpus", [1, 2])
def test_what_was_recorded_passes(cpus: int) -> None:
    judged = judge(cpus, recorded(cpus))
    assert (judged.passed, judged.reason, judged.trouble) == (True, "", "")
    assert len(judged.checks) == len("".join(recorded(cpus)).splitlines())


def test_each_wrong_number_fails_and_is_named() -> None:
    for cpus, check in EVERY:
        assert check.seen is not None
        if check.at_least and not check.expected:
            continue
        wrong = check.expected - 1 if check.at_least else check.seen + 1
        judged = judge(cpus, with_line(cpus, line_of(check), f"{line_of(check)} {max(wrong, 0)}\n"))
        (found,) = [one for one in judged.checks if one.name == check.name]
        assert not judged.passed, check
        assert not found.held, check
        assert judged.reason.startswith("the emulator's self-test failed: "), check


def test_each_missing_line_fails() -> None:
    for cpus, check in EVERY:
        judged = judge(cpus, with_line(cpus, line_of(check), ""))
        assert not judged.passed, check
        assert [one.name for one in judged.checks if one.seen is None] == [check.name]


def test_the_reason_is_one_sentence_with_both_numbers() -> None:
    judged = judge(1, with_line(1, "across.all", "across.all 1015\n"))
    assert judged.reason == (
        "the emulator's self-test failed: instructions across VM-entry and VM-exit (1 CPU): "
        "1015 seen, 1014 expected (1 of 316 checks failed)"
    )


def test_a_count_is_held_against_the_number_of_smis_that_came_with_it() -> None:
    judged = judge(1, with_line(1, "smi-turns.smis", "smi-turns.smis 999\n"))
    failed = [line_of(check) for check in judged.checks if not check.held]
    assert failed == ["smi-turns.all", "smi-turns.os", "smi-turns.fixed"]


def test_a_wrong_number_says_more_than_the_end_that_follows() -> None:
    first, _ = with_line(1, "loop.all", "loop.all 7\n")
    judged = judge(1, [first])
    assert "instructions of a loop (1 CPU): 7 seen, 40005 expected" in judged.reason


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("across.all 10", "line 2 is no name and number"),
        ("across.all ten\n", "line 2 is no name and number"),
        ("across.all -1\n", "line 2 is no name and number"),
        ("across.all 1014 1012\n", "line 2 is no name and number"),
        ("\0\xff\n", "line 2 is no name and number"),
        ("cpus 1\n", "line 2 repeats cpus"),
        ("unexpected-exception.stack 70000\n", "reports unexpected-exception.stack 70000"),
    ],
)
def test_garbage_is_no_result(line: str, trouble: str) -> None:
    first, second = recorded(1)
    judged = judge(1, [first.replace("cpus 1\n", f"cpus 1\n{line}"), second])
    assert trouble in judged.trouble
    assert not judged.passed


@pytest.mark.parametrize(
    "outputs", [[], [""], ["", ""], ["".join(recorded(1))], ["".join(recorded(1)), ""],
                ["", "".join(recorded(1))], [*recorded(1), "end 1\n"], recorded(2)],
)  # fmt: skip
def test_a_machine_that_was_not_saved_and_restored_has_not_passed(outputs: list[str]) -> None:
    assert not judge(1, outputs).passed


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(data: bytes) -> None:
    judged = judge(1, [data.decode(errors="replace"), ""])
    assert not judged.passed
    assert "\n" not in judged.reason


def test_nothing_checked_is_not_passed() -> None:
    assert not SelfTest(()).passed


def test_evidence_has_each_check() -> None:
    judged = judge(1, with_line(1, "loop.all", "loop.all 7\n"))
    found = judged.to_json()
    assert (found["passed"], found["reason"]) == (False, judged.reason)
    checks = found["checks"]
    assert isinstance(checks, list)
    assert {"name": "1-cpu/loop.all", "expected": 40005, "seen": 7} in checks
    assert len(checks) == len(judged.checks)


# The machines' processes, played by a shell.

PLAYER = """
cpus=$(sed -n 's/^cpu: .*count=\\([12]\\).*/\\1/p' bochsrc)
if test "$1" = -f; then
	sed '/^before-saving/q' {recorded}/selftest-$cpus.txt > parallel
	{save}
else
	sed '1,/^before-saving/d' {recorded}/selftest-$cpus.txt > parallel
fi
"""
SAVE = "cp bochsrc state/config"


def played(script: str) -> Program:
    """An emulator whose two processes run a script; its arguments are the emulator's."""

    def start(arguments: Sequence[str], save: Path | None) -> Launch:
        return Launch(["sh", "-c", script, "sh", *arguments], {"PATH": "/usr/bin:/bin"})

    return Program(Variant.distribution(), start)


def play(save: str = SAVE) -> str:
    return PLAYER.format(recorded=RECORDED, save=save)


@pytest.fixture(autouse=True)
def _rom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rom = tmp_path / "rom"
    rom.write_bytes(b"rom")
    monkeypatch.setattr(selftest, "ROM", rom)


def test_both_machines_run_in_two_processes_each() -> None:
    done = run(played(play()))
    assert (done.passed, done.reason) == (True, "")
    assert len(done.checks) == len(EVERY)


def test_the_machine_has_the_rom_and_nothing_that_needs_a_file() -> None:
    done = run(played(f"test -s rom || exec echo no ROM >&2; {play()}"))
    assert done.passed
    text = selftest._configuration(Variant.distribution(), 2)
    assert 'romimage: file="rom"\n' in text
    assert "count=2" in text
    assert "ata0" not in text
    assert "com1" not in text
    assert "ata1" not in text


def test_a_machine_that_never_ends_is_ended() -> None:
    done = run(played("exec sleep 100"), deadline_s=0.2)
    assert done.trouble == "the machine did not end within 0.2 s (1 CPU)"
    assert done.trouble in done.reason


def test_an_emulator_that_dies_is_named_with_its_signal_and_last_words() -> None:
    done = run(played("echo first >&2; echo last >&2; kill -SEGV $$"))
    assert done.trouble == "the emulator was ended by signal 11: last (1 CPU)"


def test_a_panic_says_more_than_the_last_line() -> None:
    done = run(played("echo last >&2; echo '00 >>PANIC<< no ROM' > bochs.log"))
    assert done.trouble == "the machine ended early: no ROM (1 CPU)"


def test_a_machine_that_goes_on_unsaved_has_failed() -> None:
    done = run(played(play(save=":")))
    assert "the machine was not saved" in done.reason


def test_a_machine_that_can_not_be_restored_is_named_with_the_emulator_s_last_words() -> None:
    done = run(played(f"test $1 = -r && exec echo damaged >&2; {play()}"))
    assert done.trouble == "the machine ended early when it was restored: damaged (1 CPU)"
    assert done.trouble in done.reason


def test_an_emulator_that_is_not_there_has_failed() -> None:
    def start(arguments: Sequence[str], save: Path | None) -> Launch:
        return Launch(["/nonexistent/bochs", *arguments], {})

    done = run(Program(Variant.distribution(), start))
    assert "the emulator can't be started" in done.reason


# A build is tested once.


def counting(tmp_path: Path, more: str = "") -> tuple[Program, Path]:
    """Return an emulator that passes, and the file with a line for each of its processes."""
    starts = tmp_path / "starts"
    return played(f"echo start >> {starts}; {more}{play()}"), starts


def test_a_build_that_passed_is_not_tested_again(tmp_path: Path) -> None:
    cache, (program, starts) = Cache(tmp_path / "cache"), counting(tmp_path)
    said = proved(cache, program, "digest")
    assert said == f"{len(EVERY)} checks passed, in machines with 1 and 2 CPUs"
    assert proved(cache, program, "digest") == said
    assert len(starts.read_text().splitlines()) == 4
    (kept,) = (tmp_path / "cache").glob("selftest/*/selftest.json")
    assert len(json.loads(kept.read_text())["checks"]) == len(EVERY)


def test_another_build_and_another_rom_are_tested(tmp_path: Path) -> None:
    cache, (program, starts) = Cache(tmp_path / "cache"), counting(tmp_path)
    proved(cache, program, "digest")
    proved(cache, program, "other")
    selftest.ROM.write_bytes(b"another rom")
    proved(cache, program, "digest")
    assert len(starts.read_text().splitlines()) == 12


def test_a_build_that_failed_is_tested_again(tmp_path: Path) -> None:
    cache, (program, starts) = Cache(tmp_path / "cache"), counting(tmp_path, "exit; ")
    for _ in range(2):
        with pytest.raises(SelfTestFailed, match="self-test failed: the machine"):
            proved(cache, program, "digest")
    assert len(starts.read_text().splitlines()) == 4
