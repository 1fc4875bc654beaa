"""kvmtest/lab/machine.py: a machine is heard, ended and cleared away, with real processes.

A shell script plays the emulator: it speaks on the ports that its bochsrc names.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import kvmtest
from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.bochs.build import Build
from kvmtest.lab.emulators.bochs.built import BuiltBochs
from kvmtest.lab.emulators.emulator import Hardware, Start
from kvmtest.lab.machine import EmulatedMachine, MachineOutput
from kvmtest.target import TargetFailed, TimeUp

# It finds its ports where a bochsrc, or a saved machine's config, says they are.
PROLOGUE = r"""#!/bin/sh
rc=$3; test -d "$rc" && rc=$rc/config
port() { sed -n "s/^$1: .*$2=\"\([^\"]*\)\".*/\1/p" "$rc"; }
serial=$(port com1 dev) parallel=$(port parport1 file) log=$(sed -n 's/^log: "\(.*\)"/\1/p' "$rc")
exec 7> "$serial" 8> "$parallel"
console() { printf '%b\n' "$*" >&7; }
say() { printf '%s\n' "$*" >&8; }
tell() { printf '\036%s\n' "$*" >&8; }
hang() { exec sleep 1000; }
"""
END = 'tell \'{"stage": "booted"}\'; tell \'{"end": 0}\'\n'
SAVED = """\
romimage: file="/gone/bios.bin", address=0x00000000
vgaromimage: file="/gone/vgabios.bin"
ata0-master: type=cdrom, path="/gone/boot.iso", status=inserted
ata1-master: type=cdrom, path="/gone/payload", status=inserted
cpu: count=1, model=corei7_skylake_x, msrs="/gone/bochs-msrs.def"
log: /gone/bochs.log
parport1: enabled=true, file="/gone/parallel"
com1: enabled=true, mode=file, dev="/gone/serial"
"""


@dataclass
class Lab:
    """Machines of one emulator, in a folder for temporary files of their own."""

    root: Path
    lines: list[str] = field(default_factory=list)

    @property
    def temporary(self) -> Path:
        return self.root / "temporary files"

    def machine(
        self, script: str, payload: bytes = b"", state: Path | None = None, save: Path | None = None
    ) -> EmulatedMachine:
        program = self.root / "bochs"
        program.write_text(PROLOGUE + script)
        program.chmod(0o755)
        bochs = BuiltBochs(Build(self.root, "digest"), "")
        start = Start(Hardware(), self.root, state, save)
        return EmulatedMachine(bochs, start, payload, self.lines.append)

    def run(
        self, script: str, deadline: float = 30, goal: str = "end", **more: Path
    ) -> MachineOutput:
        return self.machine(script, **more).run(deadline, goal)  # type: ignore[arg-type]

    def fail(self, script: str, deadline: float = 30, goal: str = "end") -> TargetFailed:
        with pytest.raises(TargetFailed) as caught:
            self.run(script, deadline, goal)
        assert "\n" not in str(caught.value)
        return caught.value

    def leftovers(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir()]

    def processes(self) -> list[int]:
        """Return the processes that work in, or were told of, the folder for temporary files."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._is_in(path)]

    def _is_in(self, process: Path) -> bool:
        try:
            words = (process / "cmdline").read_bytes()
            place = (process / "cwd").readlink()
        except OSError:
            return False
        return str(self.temporary).encode() in words or place.is_relative_to(self.temporary)

    def await_quiet(self) -> None:
        """Wait until nothing is left, for as long as a loaded machine may take."""
        until = time.monotonic() + 20
        while (self.leftovers() or self.processes()) and time.monotonic() < until:
            os.sched_yield()
        assert self.leftovers() == []
        assert self.processes() == []


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(tmp_path)
    made.temporary.mkdir()
    (tmp_path / "boot.iso").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(made.temporary))
    descriptors = open_descriptors()
    yield made
    # However it ended. What was killed takes a moment to be gone.
    made.await_quiet()
    assert made.leftovers() == []
    assert made.processes() == []
    assert open_descriptors() == descriptors


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# A machine that does its job


def test_what_it_says_and_sends_comes_out(lab: Lab) -> None:
    script = """
console 'Linux version 6.12'
tell '{"stage": "awake"}'
say '2 tests'
tell '{"file": "evidence.json", "size": 5}'
printf 'abcde' >&8
"""
    outcome = lab.run(script + END)
    assert outcome.status == 0
    assert outcome.files == {"evidence.json": b"abcde"}
    assert outcome.printed == "2 tests\n"
    assert outcome.console == "Linux version 6.12\n"
    assert list(outcome.stages) == ["awake", "booted", "end"]
    assert sorted(outcome.stages.values()) == list(outcome.stages.values())
    assert lab.lines == ["2 tests"]


@pytest.mark.parametrize(("told", "status"), [("1", 1), ("125", 125), ("256", 3), ('"0"', 3)])
def test_its_status_is_kvmtest_s_inside_or_that_of_an_error(
    lab: Lab, told: str, status: int
) -> None:
    assert lab.run(f"tell '{{\"end\": {told}}}'").status == status


def test_an_emulator_that_does_not_end_well_has_failed_although_its_machine_was_done(
    lab: Lab,
) -> None:
    assert "the emulator ended with status 1" in str(lab.fail(f"{END} exit 1"))


def test_more_than_a_fifo_holds_comes_out_whole(lab: Lab) -> None:
    script = """
seq -f 'line %.0f' 30000 >&7
tell '{"file": "large", "size": 1000000}'
head -c 1000000 /dev/zero >&8
seq -f 'said %.0f' 30000 >&8
"""
    outcome = lab.run(script + END)
    assert outcome.console.splitlines() == [f"line {n}" for n in range(1, 30001)]
    assert outcome.files == {"large": bytes(1000000)}
    assert outcome.printed.splitlines() == [f"said {n}" for n in range(1, 30001)]


def test_its_last_words_are_heard(lab: Lab) -> None:
    outcome = lab.run(END + "console 'reboot: Power down'; printf 'no newline' >&7")
    assert outcome.console == "reboot: Power down\nno newline"


def test_the_console_has_no_nul_and_no_carriage_return(lab: Lab) -> None:
    outcome = lab.run(r"printf '\0\0one\r\n\0two\r\n' >&7;" + END)
    assert outcome.console == "one\ntwo\n"


def test_it_has_the_payload_and_the_disk_in_its_drives(lab: Lab) -> None:
    script = r"""
payload=$(port ata1-master path)
tell "{\"file\": \"payload\", \"size\": 2058}"
head -c 2058 "$payload" >&8
say "$(stat -c %s "$payload")"
say "$(port ata0-master path)"
"""
    outcome = lab.machine(script + END, b"0123456789").run(30, "end")
    assert outcome.files["payload"][:16] == b"KVMTEST1" + (10).to_bytes(8, "little")
    assert outcome.files["payload"][2048:] == b"0123456789"
    assert outcome.printed.splitlines() == [str(64 << 20), str(lab.root / "boot.iso")]


def test_it_sees_little_of_our_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BXSHARE", "/elsewhere")
    outcome = lab.run('say "${BXSHARE-unset} ${TERM-unset}"; tail -n +1 <&0 >&8;' + END)
    assert outcome.printed == "unset unset\n"


def test_it_is_no_child_of_a_terminal(lab: Lab) -> None:
    outcome = lab.run("say $(ps -o sid= -p $$) $$;" + END)
    session, own = outcome.printed.split()
    assert session == own


@pytest.mark.parametrize(
    ("start", "told"),
    [("booted", "2 no"), ("restored", "0 no"), ("saved", "0 DIR"), ("restored, saved", "0 DIR")],
)
def test_the_emulator_is_told_which_stops_to_pass_and_where_to_save(
    lab: Lab, start: str, told: str
) -> None:
    folder = lab.root / "a folder"
    folder.mkdir()
    for name in ("config", "kvmtest"):
        (folder / name).write_text(SAVED)
    ways = {"state": "restored", "save": "saved"}
    more = {name: folder for name, way in ways.items() if way in start}
    outcome = lab.run('say "$KVMTEST_PASSES ${KVMTEST_SAVE-no}";' + END, **more)
    assert outcome.printed == told.replace("DIR", str(folder)) + "\n"


def test_a_saved_machine_is_restored_with_ports_and_drives_of_its_own(lab: Lab) -> None:
    state = lab.root / "state"
    state.mkdir()
    (state / "config").write_text(SAVED)
    (state / "cpu0").write_text("registers")
    script = 'say "$1 $2 $(basename "$3") $(cat "$3/cpu0")"; grep -c /gone/ "$3/config" >&8;'
    outcome = lab.run(script + END, state=state)
    assert outcome.printed.splitlines() == ["-q -r state registers", "0"]
    assert (state / "config").read_text() == SAVED
    assert sorted(path.name for path in state.iterdir()) == ["config", "cpu0"]


# A machine that fails


def test_a_machine_that_hangs_is_ended_at_the_deadline(lab: Lab) -> None:
    failed = lab.fail("console 'still here'; tell '{\"stage\": \"booted\"}'; hang", deadline=1)
    assert str(failed) == (
        "the lab's machine did not end within 1 s (it reached: booted); "
        "allow more with --deadline, or look at its console"
    )
    assert failed.console == "still here\n"
    assert isinstance(failed, TimeUp)


def test_a_machine_that_never_stops_talking_is_ended_at_the_deadline(lab: Lab) -> None:
    failed = lab.fail("yes talk >&7 & yes talk >&8", deadline=1)
    assert "did not end within 1 s (it reached: nothing)" in str(failed)
    assert isinstance(failed, TimeUp)
    assert failed.tail.splitlines()[0] == "talk"


def test_a_machine_that_hangs_after_its_job_has_not_ended(lab: Lab) -> None:
    assert "(it reached: booted, end)" in str(lab.fail(END + "hang", deadline=1))


PANIC = "[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs"


@pytest.mark.parametrize("ending", [r"\r", ""])
def test_a_panic_is_told_long_before_the_deadline(lab: Lab, ending: str) -> None:
    began = time.monotonic()
    failed = lab.fail(f"console '{PANIC}{ending}'; console 'RIP: 0010'; hang", deadline=300)
    assert str(failed) == (
        "the lab's machine failed: Kernel panic - not syncing: VFS: Unable to mount root fs"
    )
    assert failed.console.splitlines() == [PANIC, "RIP: 0010"]
    assert time.monotonic() - began < 60


def test_a_panic_s_line_may_come_in_pieces(lab: Lab) -> None:
    script = "printf 'Kernel panic - not '>&7; sync() { :; }; tell '{}'; printf 'syncing: a %s\\n' "
    failed = lab.fail(script + "$(head -c 3000 /dev/zero | tr '\\0' b) >&7; hang")
    assert str(failed).endswith("Kernel panic - not syncing: a " + "b" * 3000)


def test_a_panic_counts_even_after_the_job_is_done(lab: Lab) -> None:
    assert "Kernel panic" in str(lab.fail(f"{END} console '{PANIC}'"))


def test_the_first_fatal_line_is_the_one_that_is_told(lab: Lab) -> None:
    failed = lab.fail(f"console '{PANIC}'; console 'lab: kvm_intel can not be loaded'; hang")
    assert "Unable to mount" in str(failed)


def test_what_init_gives_up_with_is_told(lab: Lab) -> None:
    failed = lab.fail(r"console '\0lab: kvm_intel can not be loaded'; hang")
    assert str(failed) == "the lab's machine failed: lab: kvm_intel can not be loaded"


@pytest.mark.parametrize("line", ["slab: cache created", "kvmtest: lab: a step", "a lab: b"])
def test_a_line_that_only_looks_like_the_init_s_is_not_fatal(lab: Lab, line: str) -> None:
    assert lab.run(f"console '{line}';" + END).status == 0


def test_what_the_agent_says_that_it_failed_at_is_told(lab: Lab) -> None:
    script = "tell '{\"failed\": \"rmmod kvm: in use\"}'; console 'lab: the agent ended'; hang"
    failed = lab.fail(script)
    assert str(failed) == "the lab's machine failed: rmmod kvm: in use"
    assert failed.tail == "lab: the agent ended"


def test_the_tail_is_the_last_lines_and_the_console_all_of_it(lab: Lab) -> None:
    failed = lab.fail("seq 100 >&7; printf '\\n\\n' >&7; exit 1")
    assert failed.tail.splitlines() == [str(number) for number in range(86, 101)]
    assert failed.console.split() == [str(number) for number in range(1, 101)]


def test_an_emulator_that_ends_before_the_goal_is_told_with_its_status(lab: Lab) -> None:
    failed = lab.fail('tell \'{"stage": "booted"}\'; exit 4')
    assert str(failed) == "the emulator ended with status 4 before its machine was done"


def test_the_goal_is_what_it_was_asked_for(lab: Lab) -> None:
    assert lab.run('tell \'{"stage": "booted"}\'', goal="booted").status == 3
    assert "was done" in str(lab.fail('tell \'{"stage": "booted"}\'', goal="ready"))


def test_a_machine_that_was_not_saved_has_failed_although_it_booted(lab: Lab) -> None:
    script = END + "echo 'bochs: the state can not be saved to /x' >&2; exit 75"
    failed = lab.fail(script, goal="booted")
    assert str(failed) == (
        "the emulator ended with status 75 before its machine was done: "
        "bochs: the state can not be saved to /x"
    )


def test_a_machine_that_went_on_instead_of_being_saved_has_failed(lab: Lab) -> None:
    folder = lab.root / "state"
    folder.mkdir()
    with pytest.raises(TargetFailed, match=r"did not save its machine to .*state; use --cold"):
        lab.run(END, save=folder)


def test_an_emulator_that_is_killed_is_told_with_the_signal(lab: Lab) -> None:
    assert "the emulator was killed by SIGSEGV" in str(lab.fail(END + "kill -SEGV $$"))


def test_the_emulator_s_panic_is_told_rather_than_what_it_prints(lab: Lab) -> None:
    script = """echo 'noise' >&2
echo '00000000000e[      ] >>PANIC<< dlopen failed' > "$log"; exit 1"""
    assert str(lab.fail(script)).endswith("was done: dlopen failed")


def test_an_emulator_that_is_not_there_is_told(lab: Lab) -> None:
    machine = lab.machine("")
    (lab.root / "bochs").unlink()
    with pytest.raises(TargetFailed, match=r"ended with status 127 .*bochs: not found"):
        machine.run(30, "end")


def test_without_setpriv_nothing_is_started(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    only = lab.root / "bin"
    only.mkdir()
    for name in ("sh", "rm"):
        (only / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(only))
    with pytest.raises(EnvironmentUnfit, match=f"^setpriv is missing; {install('util-linux')}"):
        lab.run(END)


def test_a_folder_that_can_not_be_made_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(lab.root / "nowhere"))
    with pytest.raises(EnvironmentUnfit, match=r"can't make .*nowhere/.*; set TMPDIR to another"):
        lab.run(END)


def test_a_state_without_its_configuration_is_told(lab: Lab) -> None:
    (lab.root / "state").mkdir()
    with pytest.raises(EnvironmentUnfit, match=r"can't make a machine in .*config"):
        lab.run(END, state=lab.root / "state")


# Nothing is left of it


def raising(error: BaseException) -> Callable[[str], None]:
    def on_line(_: str) -> None:
        raise error

    return on_line


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()])
def test_an_exception_ends_the_emulator_and_what_it_started(lab: Lab, error: BaseException) -> None:
    machine = lab.machine("sleep 1000 & say hello; hang")
    machine.on_line = raising(error)
    with pytest.raises(type(error)):
        machine.run(300, "end")
    # The fixture sees that neither process nor folder is left.


# Runs one machine as the command line does, and says when it is heard.
OWNER = """
import signal
import sys
from pathlib import Path
from kvmtest.lab.emulators.bochs.build import Build
from kvmtest.lab.emulators.bochs.built import BuiltBochs
from kvmtest.lab.emulators.emulator import Hardware, Start
from kvmtest.lab.machine import EmulatedMachine

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored
bochs = BuiltBochs(Build(Path(sys.argv[1]).parent, "digest"), "")
start = Start(Hardware(), Path("/"))
EmulatedMachine(bochs, start, b"", lambda line: print(line, flush=True)).run(300, "end")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_killed_owner_leaves_neither_process_nor_folder(lab: Lab, number: signal.Signals) -> None:
    lab.machine("say $$; hang")
    program = lab.root / "bochs"
    with owner(lab, program) as process:
        assert process.stdout
        emulator = int(process.stdout.readline())
        assert lab.leftovers() != []
        assert emulator in lab.processes()
        process.send_signal(number)
    assert process.returncode == -number
    lab.await_quiet()


def test_an_owner_killed_while_it_starts_leaves_neither_process_nor_folder(lab: Lab) -> None:
    lab.machine("hang")
    program = lab.root / "bochs"
    met = 0
    for delay in range(0, 60, 3):
        with owner(lab, program) as process:
            pidfd = os.pidfd_open(process.pid)
            until = time.monotonic() + 20
            while not lab.processes() and time.monotonic() < until:
                os.sched_yield()
            select.select([pidfd], [], [], delay / 1000)
            os.close(pidfd)
            met += bool(lab.leftovers())
            process.kill()
        lab.await_quiet()
    assert met, "no kill met a folder"


def owner(lab: Lab, program: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(program)],
        env=os.environ
        | {"PYTHONPATH": str(Path(kvmtest.__file__).parents[1]), "TMPDIR": str(lab.temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
