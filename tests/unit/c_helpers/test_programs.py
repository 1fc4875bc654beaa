"""c_helpers/lab/port.c and c_helpers/bochs/save.c: they build, and refuse what makes no sense."""

import os
import runpy
import subprocess
from collections.abc import Mapping
from pathlib import Path
from shutil import which

import pytest
from support.stand_in import NOBODY

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    runpy.run_path(str(ROOT / "c_helpers" / "programs.py"))["build"](folder)
    for path in (folder, *folder.parents):
        if path.owner() == folder.owner() and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o711)
    return folder


# port


def run_as_nobody(built: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run port without the right to use I/O ports: this machine has some, too."""
    return subprocess.run(
        [built / "inside" / "port", *words],
        user=NOBODY if os.geteuid() == 0 else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "words", [(), ("",), ("nonsense",), ("send", "more"), ("--help",)], ids=" ".join
)
def test_port_tells_its_usage_before_it_asks_for_ports(built: Path, words: tuple[str, ...]) -> None:
    done = run_as_nobody(built, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "port: usage: port breakpoint | end | receive | send\n"


@pytest.mark.parametrize("word", ["breakpoint", "end", "receive", "send"])
def test_port_says_who_may_use_ports(built: Path, word: str) -> None:
    done = run_as_nobody(built, word)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "port: I/O ports may not be used; run it as root inside the lab's machine\n"
    )


def test_port_needs_no_other_file(built: Path) -> None:
    listing = subprocess.run(["ldd", built / "inside" / "port"], capture_output=True, text=True)
    assert "not a dynamic executable" in listing.stdout + listing.stderr


# save

# Plays Bochs: reads commands as its debugger does, and prints those that reach it.
DEBUGGER = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct simulator { int number; };
static struct simulator simulator = { 7 };
struct simulator *SIM = NULL_OR_NOT;

#ifdef CAN_SAVE
_Bool _ZN13bx_real_sim_c10save_stateEPKc(struct simulator *self, const char *folder)
{
	printf("saved %d to <%s>\\n", self->number, folder);
	return !getenv("FULL");
}
#endif

int main(void)
{
	char line[64];

	while (fgets(line, sizeof(line), stdin))
		printf("command %s\\n", strtok(line, "\\n"));
	return 0;
}
"""


def debugger(folder: Path, simulator: str = "&simulator", *, can_save: bool = True) -> Path:
    source, program = folder / "debugger.c", folder / "debugger"
    source.write_text(DEBUGGER.replace("NULL_OR_NOT", simulator))
    flags = ["-DCAN_SAVE"] if can_save else []
    # -rdynamic exports what the program has, as Debian's Bochs does.
    subprocess.run(["cc", "-rdynamic", *flags, "-o", program, source], check=True)
    return program


def obey(
    program: Path, built: Path, script: str, environment: Mapping[str, str] = os.environ
) -> "subprocess.CompletedProcess[str]":
    extension = str(built / "emulators" / "bochs-extension.so")
    return subprocess.run(
        [program], input=script, capture_output=True, text=True,
        env={**environment, "LD_PRELOAD": extension},
    )  # fmt: skip


@pytest.mark.parametrize("script", ["c\n!save /a folder\nq\n", "c\n!save /a folder\nq"])
def test_a_save_is_done_between_the_debugger_s_own_commands(
    built: Path, tmp_path: Path, script: str
) -> None:
    done = obey(debugger(tmp_path), built, script)
    assert done.stdout.splitlines() == ["command c", "saved 7 to </a folder>", "command q"]
    assert done.returncode == 0


def test_a_save_may_be_the_last_line_and_end_without_a_newline(built: Path, tmp_path: Path) -> None:
    done = obey(debugger(tmp_path), built, "!save /a")
    assert (done.stdout, done.returncode) == ("saved 7 to </a>\n", 0)


@pytest.mark.parametrize("line", ["save /a", " !save /a", "!saved", "!", "x !save /a"])
def test_other_lines_are_the_debugger_s(built: Path, tmp_path: Path, line: str) -> None:
    assert obey(debugger(tmp_path), built, f"{line}\n").stdout == f"command {line}\n"


@pytest.mark.parametrize("why", ["it fails", "there is no simulator", "no such function"])
def test_a_machine_that_can_not_be_saved_ends_the_emulator(
    built: Path, tmp_path: Path, why: str
) -> None:
    simulator = "0" if why == "there is no simulator" else "&simulator"
    program = debugger(tmp_path, simulator, can_save=why != "no such function")
    environment = {**os.environ, **({"FULL": "1"} if why == "it fails" else {})}
    done = obey(program, built, "!save /a\nq\n", environment)
    assert done.returncode == 75
    assert done.stderr == "bochs: the state can't be saved to /a\n"
    assert "command" not in done.stdout


def test_a_folder_that_does_not_fit_the_line_is_not_saved_to_half_of_it(
    built: Path, tmp_path: Path
) -> None:
    done = obey(debugger(tmp_path), built, f"!save /{'x' * 100}\nq\n")
    assert done.returncode == 75
    assert done.stderr.startswith("bochs: the folder's name is too long: !save /xxx")
    assert done.stdout == ""
