"""lab/emulators/qemu.py: what is found, how a machine is started, and what its monitor is told.

Beside a real machine, which tests/lab has, a shell script plays QEMU with a machine inside.
"""

import itertools
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.lab.emulators import qemu as module
from kvmtest.lab.emulators.emulator import PARALLEL, PAYLOAD, SERIAL, Hardware, Start
from kvmtest.lab.emulators.qemu import PC, Q35, Monitor, Qemu, arguments
from kvmtest.lab.machine import EmulatedMachine, MachineOutput
from kvmtest.target import TargetFailed

GREETING = {"QMP": {"version": {}, "capabilities": ["oob"]}}
DONE: dict[str, Any] = {"return": {}}
STOP = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}


def migration(status: str) -> dict[str, Any]:
    return {"event": "MIGRATION", "data": {"status": status}}


def program(folder: Path, script: str) -> Path:
    path = folder / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install what says that it is QEMU; return its folder, which is all that is in the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "echo 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)'")
    monkeypatch.setenv("PATH", str(folder))
    (tmp_path / "bios").write_text("bios")
    return folder


def find(folder: Path) -> Qemu:
    """Find QEMU there, for a board whose firmware is a file beside that folder."""
    return Qemu.find(replace(PC, firmware=(folder.parent / "bios",)))


# What is installed


def test_the_emulator_is_found_with_its_version(installed: Path) -> None:
    found = find(installed)
    assert (found.program, found.version) == (installed / "qemu-system-x86_64", "7.2.22")


def test_where_there_is_no_emulator_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = f"QEMU, is not installed; {install('qemu-system-x86')}"
    with pytest.raises(EnvironmentUnfit, match=expected):
        Qemu.find()


def test_a_missing_bios_is_named(installed: Path) -> None:
    (installed.parent / "bios").unlink()
    with pytest.raises(
        EnvironmentUnfit, match=f"bios, which QEMU needs, is missing; {install('qemu-system-x86')}"
    ):
        find(installed)


@pytest.mark.parametrize("script", ["echo QEMU", "exit 1", r"printf '\377'"])
def test_another_program_of_that_name_is_refused(installed: Path, script: str) -> None:
    program(installed, script)
    with pytest.raises(
        EnvironmentUnfit, match=f"does not identify itself as QEMU; {install('qemu-system-x86')}"
    ):
        find(installed)


def test_it_shows_no_cpu_features(installed: Path) -> None:
    find(installed).check(Hardware(2))
    with pytest.raises(UsageError, match="--show-cpu-feature rtm: the AMD machine can show none"):
        find(installed).check(Hardware(cpu_features=("rtm",)))


# What a machine's name depends on


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "program": lambda folder, _: program(folder, "echo QEMU emulator version 7.2.22 # another"),
    "BIOS": lambda folder, _: (folder.parent / "bios").write_text("another"),
    "CPU": lambda _, patch: patch.setattr(module, "_CPU", "EPYC"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_machine_is_made_of_changes_its_digest(
    installed: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = find(installed).machine_digest(Hardware(2))
    assert find(installed).machine_digest(Hardware(2)) == before
    CHANGES[change](installed, monkeypatch)
    assert find(installed).machine_digest(Hardware(2)) != before


@pytest.mark.parametrize("hardware", [Hardware(1), Hardware(2, memory=768)], ids=str)
def test_the_hardware_changes_its_digest(installed: Path, hardware: Hardware) -> None:
    found = find(installed)
    assert found.machine_digest(hardware) != found.machine_digest(Hardware(2))


# How it is started


def test_a_machine_has_no_network_and_listens_nowhere() -> None:
    words = arguments(Hardware(2), Path("/t"))
    assert "-nodefaults" in words
    assert "-no-user-config" in words
    assert not {"-netdev", "-nic", "-net", "-vnc", "-gdb", "-s"} & set(words)
    assert not [word for word in words if "socket" in word or "tcp:" in word or "server" in word]


def test_its_ports_and_its_drive_are_in_its_folder_whatever_that_is_called() -> None:
    words = arguments(Hardware(2), Path("/t/a,b"))
    for name in (SERIAL, PARALLEL, PAYLOAD):
        assert [word for word in words if f"=/t/a,,b/{name}" in word]


def test_a_machine_writes_its_uefi_variables_to_a_copy_of_its_own(
    installed: Path, tmp_path: Path
) -> None:
    variables = installed.parent / "variables"
    variables.write_bytes(b"empty")
    found = Qemu.find(replace(Q35, firmware=(variables,), variables=variables))
    found.make_boot(tmp_path, b"", b"", "")
    for start in (Start(Hardware(2), tmp_path), Start(Hardware(2), tmp_path, state=tmp_path)):
        folder = tmp_path / f"machine {bool(start.state)}"
        folder.mkdir()
        words = found.launch(start, folder).command
        (flash,) = [word for word in words if "unit=1" in word and "pflash" in word]
        copy = Path(flash.rpartition("file=")[2])
        assert copy.parent == folder
        assert copy.read_bytes() == b"empty"


def test_boards_differ_in_digest_and_modules(installed: Path) -> None:
    pc = find(installed)
    q35 = replace(pc, board=Q35)
    assert pc.machine_digest(Hardware(2)) != q35.machine_digest(Hardware(2))
    assert (pc.modules, q35.modules) == (("kvm_amd", "msr"), ("kvm_amd", "msr", "efivarfs"))
    assert (pc.boots_flat, q35.boots_flat) == (True, False)


def test_a_machine_boots_what_was_made_for_it(installed: Path, tmp_path: Path) -> None:
    found = find(installed)
    found.make_boot(tmp_path, b"kernel", b"initramfs", "quiet a=b")
    launch = found.launch(Start(Hardware(2), tmp_path), tmp_path)
    words = launch.command
    assert words[0] == str(found.program)
    assert words[words.index("-append") + 1] == "quiet a=b"
    assert Path(words[words.index("-kernel") + 1]).read_bytes() == b"kernel"
    assert Path(words[words.index("-initrd") + 1]).read_bytes() == b"initramfs"


def test_a_restored_machine_boots_nothing_and_waits_for_its_state(
    installed: Path, tmp_path: Path
) -> None:
    words = find(installed).launch(Start(Hardware(2), tmp_path, state=tmp_path), tmp_path).command
    assert words[-2:] == ["-incoming", "defer"]
    assert "-kernel" not in words


def test_it_complains_by_its_last_line_that_is_no_warning(installed: Path, tmp_path: Path) -> None:
    found = find(installed)
    assert found.complaint(tmp_path) == ""
    (tmp_path / "stderr").write_text("qemu: no memory\nqemu: warning: TCG doesn't do x\n\n")
    assert found.complaint(tmp_path) == "qemu: no memory"


# What its monitor is told


def said(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)


def told(answer: bytes) -> list[str]:
    return [json.loads(line)["execute"] for line in answer.splitlines()]


def start(state: Path | None = None, save: Path | None = None) -> Start:
    return Start(Hardware(2), Path("/boot"), state, save)


OPENING = ["qmp_capabilities", "migrate-set-capabilities"]
STATE = Path("/a folder")
CONVERSATIONS = {
    "booted": (start(), [GREETING, DONE, DONE, STOP, STOP, STOP],
               [*OPENING, "cont", "cont", "quit"]),
    "saved": (start(save=STATE), [GREETING, DONE, STOP, migration("completed")],
              [*OPENING, "migrate"]),
    "restored": (start(STATE), [GREETING, DONE, migration("completed"), STOP],
                 [*OPENING, "migrate-incoming", "cont", "quit"]),
    "restored and saved": (
        start(STATE, Path("/b")),
        [GREETING, migration("active"), migration("completed"), STOP, migration("completed")],
        [*OPENING, "migrate-incoming", "cont", "migrate"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_machine_goes_on_from_breakpoints_and_is_saved_or_ended_at_the_last(name: str) -> None:
    begun, messages, expected = CONVERSATIONS[name]
    monitor = Monitor(begun)
    assert [
        word for message in messages for word in told(monitor.answer(said(message)))
    ] == expected


@given(st.sampled_from(sorted(CONVERSATIONS)), st.lists(st.integers(0, 600)))
def test_what_it_is_told_does_not_depend_on_how_its_words_come_in_pieces(
    name: str, cuts: list[int]
) -> None:
    begun, messages, expected = CONVERSATIONS[name]
    stream, monitor = said(*messages), Monitor(begun)
    bounds = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(bounds)]
    assert [word for piece in pieces for word in told(monitor.answer(piece))] == expected


def test_a_state_s_path_is_quoted_for_the_shell() -> None:
    answer = Monitor(start(Path("/it's"))).answer(said(GREETING))
    uri = json.loads(answer.splitlines()[-1])["arguments"]["uri"]
    assert shlex.split(uri.removeprefix("exec:")) == ["cat", "<", "/it's/state"]


@pytest.mark.parametrize(
    ("begun", "message", "expected"),
    [
        (start(), {"error": {"class": "GenericError", "desc": "no such thing"}}, "no such thing"),
        (start(STATE), migration("failed"), "can't be restored; use --cold"),
        (start(save=STATE), migration("failed"), "can't be saved; use --cold"),
    ],
)
def test_its_errors_are_told(begun: Start, message: dict[str, Any], expected: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=f"^QEMU: .*{expected}"):
        Monitor(begun).answer(said(GREETING, message))


@pytest.mark.parametrize(
    "line", [b"QEMU 7.2", b"[]", b'"QMP"', b"\xff", b"[" * 100_000, b'{"a": }'], ids=range(6)
)
def test_what_is_no_message_is_told(line: bytes) -> None:
    with pytest.raises(EnvironmentUnfit, match=r"^QEMU says b.* not a QMP message"):
        Monitor(start()).answer(line + b"\n")


@pytest.mark.parametrize("message", [{"event": "MIGRATION"}, {"event": "MIGRATION", "data": []}])
def test_a_message_that_lacks_its_parts_is_passed_over(message: dict[str, Any]) -> None:
    assert Monitor(start(STATE)).answer(said(message)) == b""


def test_an_error_without_words_is_an_error() -> None:
    with pytest.raises(EnvironmentUnfit, match="QEMU"):
        Monitor(start()).answer(said({"error": None}))


# A machine, with real processes

# The ports are where the arguments say; it stops where the machine would.
MACHINE = r"""
test "$1" = --version && { echo 'QEMU emulator version 7.2.22'; exit; }
path() { printf '%s\n' "$@" | sed -n "s/^file,id=$1,path=//p"; }
for word; do case $word in file,id=serial,path=*) serial=${word##*=};;
	file,id=parallel,path=*) parallel=${word##*=};; -incoming) incoming=1;; esac; done
exec 7> "$serial" 8> "$parallel"
tell() { printf '\036%s\n' "$*" >&8; }
stop() { echo '{"event": "STOP"}'; }
echo '{"QMP": {}}'
while read -r line; do case $line in
	*'"cont"'*) at_breakpoint;;
	*'"quit"'*) exit 0;;
	*'"migrate"'*) save "$line";;
	*'"migrate-incoming"'*) echo '{"event": "MIGRATION", "data": {"status": "completed"}}';;
	*'"migrate-set-capabilities"'*) test "$incoming" || begin;;
esac; done
"""


def run(tmp_path: Path, script: str, deadline: float = 60, **more: Path) -> MachineOutput:
    emulator = Qemu(program(tmp_path, script + MACHINE), "7.2.22", "digest")
    emulator.make_boot(tmp_path, b"", b"", "quiet")
    begun = Start(Hardware(2), tmp_path, **more)
    return EmulatedMachine(emulator, begun, b"payload", print).run(
        deadline, "end" if not more else "ready"
    )


def test_a_machine_is_run_through_its_breakpoints_to_its_end(tmp_path: Path) -> None:
    script = """
begin() { tell '{"stage": "booted"}'; stop; }
at_breakpoint() { case $at in '') at=1; tell '{"stage": "ready"}'; stop;;
	1) tell '{"end": 0}'; echo console >&7; stop;; esac; }
"""
    outcome = run(tmp_path, script)
    assert list(outcome.stages) == ["booted", "ready", "end"]
    assert (outcome.status, outcome.console) == (0, "console\n")


SAVE = """
save() { echo state > "$(echo "$1" | sed 's/.*cat > \\([^ ]*\\).part .*/\\1/')"; exit 0; }
"""


def test_a_machine_is_saved_where_it_stops(tmp_path: Path) -> None:
    state = tmp_path / "saved"
    state.mkdir()
    run(tmp_path, SAVE + """begin() { tell '{"stage": "ready"}'; stop; }""", save=state)
    assert (state / "state").read_text() == "state\n"


def test_a_machine_that_ends_without_being_saved_has_failed(tmp_path: Path) -> None:
    state = tmp_path / "saved"
    state.mkdir()
    script = """save() { exit 0; }; begin() { tell '{"stage": "ready"}'; stop; }"""
    with pytest.raises(TargetFailed, match=r"did not save its machine to .*saved; use --cold"):
        run(tmp_path, script, save=state)


def test_a_restored_machine_goes_on(tmp_path: Path) -> None:
    script = """at_breakpoint() { tell '{"stage": "ready"}'; tell '{"end": 1}'; stop; }"""
    assert run(tmp_path, script, state=tmp_path).status == 1


def test_what_the_monitor_complains_of_ends_the_machine(tmp_path: Path) -> None:
    script = """begin() { echo '{"error": {"desc": "State blocked"}}'; sleep 1000; }"""
    with pytest.raises(TargetFailed, match="the lab's machine failed: QEMU: State blocked"):
        run(tmp_path, script)


@pytest.mark.parametrize("way", ["exec >/dev/null; ", ""])
def test_a_machine_that_hangs_is_ended_at_the_deadline_with_its_monitor_closed_or_not(
    tmp_path: Path, way: str
) -> None:
    script = f"begin() {{ {way} exec sleep 1000; }}"
    with pytest.raises(TargetFailed, match="did not end within 1 s"):
        run(tmp_path, script, deadline=1)
