"""c_helpers/bochs/requests.cc: what stops and ends the emulator, and what is sent for a machine."""

import subprocess
from pathlib import Path

import pytest
from support.bochs_part import needs_compiler, program

pytestmark = needs_compiler

STOP_PORT = 0x4B5

# Each argument PORT=VALUE is a write, after which the CPUs' requests are printed; then comes the
# boundary of the instruction. PORT? is a read of what would be 0xff, and TEXT, a word without
# either, is given to the data port.
DRIVER = """
#include "emulator.h"
#include "instrument.h"
#include "state.h"

void state_before_save(void) { puts("counted"); }

int main(int, char **argv)
{
	stand_in_make_cpus(2);
	new bx_list_c(SIM->get_bochs_root(), "machine");
	SIM->parallel_file.value = getenv("PARALLEL") ? getenv("PARALLEL") : "";
	for (char **argument = argv + 1; *argument; argument++) {
		unsigned port, value;
		Bit32u answer = 0xff;
		char end;

		if (sscanf(*argument, "%x%c", &port, &end) == 2 && end == '?') {
			BX_INSTR_INP2(port, 1, answer);
			printf("%#x\\n", answer);
			continue;
		}
		if (sscanf(*argument, "%x=%x", &port, &value) != 2) {
			for (const char *at = *argument; *at; at++)
				BX_INSTR_OUTP(0x4b6, 1, *at);
			continue;
		}
		BX_INSTR_OUTP(port, 1, value);
		printf("%u %u\\n", BX_CPU(0)->async_event, BX_CPU(1)->async_event);
		BX_INSTR_BOUNDARY();
	}
	return 3;
}
"""
GOES_ON, ENDS = "0 0\n", "1 1\n"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("requests") / "program", DRIVER, "requests.cc")


def run(emulator: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [emulator, *words], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


STOPS = [f"{STOP_PORT:#x}=1"] * 5


def test_the_first_stop_ends_it_at_the_next_boundary(emulator: Path) -> None:
    assert run(emulator, *STOPS) == (0, ENDS, "")


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_as_many_stops_are_passed_as_it_is_told(emulator: Path, passes: int) -> None:
    expected = (0, passes * GOES_ON + ENDS, "")
    assert run(emulator, *STOPS, KVMTEST_PASSES=str(passes)) == expected


@pytest.mark.parametrize("word", ["0x4b5=0", "0x4b5=101", "0x4b4=1", "0x505=1", "0x3f8=1"])
def test_other_ports_and_values_stop_nothing(emulator: Path, word: str) -> None:
    assert run(emulator, word) == (3, GOES_ON, "")


def test_it_is_saved_with_all_that_was_counted_at_the_stop_that_is_not_passed(
    emulator: Path, tmp_path: Path
) -> None:
    done = run(emulator, *STOPS, KVMTEST_PASSES="1", KVMTEST_SAVE=str(tmp_path))
    assert done == (0, f"{GOES_ON}{ENDS}counted\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["machine"]


def test_a_machine_that_can_not_be_saved_ends_it_with_a_status_of_its_own(
    emulator: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nowhere"
    status, _, said = run(emulator, *STOPS, KVMTEST_SAVE=str(folder))
    assert (status, said) == (75, f"bochs: the state can't be saved to {folder}\n")


def test_a_read_of_its_port_alone_tells_that_it_takes_requests(emulator: Path) -> None:
    assert run(emulator, "0x4b5?", "0x4b4?", "0x4b6?") == (3, "0x4b\n0xff\n0xff\n", "")


SEND = "0x4b5=2"


def test_what_is_given_comes_to_the_parallel_ports_file_when_it_is_sent(
    emulator: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    given = ["x--one", SEND, "x--two", SEND, SEND, "never"]
    assert run(emulator, *given, PARALLEL=str(file)) == (3, 3 * GOES_ON, "")
    assert file.read_text() == "x--onex--two"


def test_no_more_is_taken_than_fits(emulator: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    words = ["x" * 0xFFFF, "yz", SEND, "z", SEND]
    assert run(emulator, *words, PARALLEL=str(file))[0] == 3
    assert file.read_text() == "x" * 0xFFFF + "y" + "z"


def test_a_file_that_can_not_be_written_ends_it_with_a_status_of_its_own(
    emulator: Path, tmp_path: Path
) -> None:
    file = tmp_path / "nowhere" / "file"
    status, _, said = run(emulator, "x", SEND, PARALLEL=str(file))
    assert (status, said) == (76, f"bochs: {file} can't be written: No such file or directory\n")
