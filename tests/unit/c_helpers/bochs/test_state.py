"""c_helpers/bochs/state.cc: counters are saved and restored, damaged or foreign ones refused."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import cffi
import pytest
from support.bochs_part import BOCHS, needs_compiler, program, shared_object

pytestmark = needs_compiler

# save: give each field a value that is not 0, and save; either way, print all bytes.
DRIVER = """
#include <cstddef>
#include "emulator.h"
#include "instrument.h"
#include "smi.h"
#include "state.h"

struct counted counted[MAX_CPUS];
struct smi_source smi_source;

static unsigned advanced;

void counted_advance(unsigned) { advanced++; }

static void fill(void *data, size_t size, uint8_t value)
{
	for (size_t i = 0; i < size; i++)
		static_cast<uint8_t *>(data)[i] = value++ | 1;
}

static void show(const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		printf("%02x", static_cast<const uint8_t *>(data)[i]);
	putchar('\\n');
}

static bool save(const char *folder)
{
	fill(&smi_source, sizeof(smi_source), 1);
	for (unsigned cpu = 0; cpu < BX_SMP_PROCESSORS; cpu++) {
		bool *flags = &counted[cpu].pmu.in_guest, *last = &counted[cpu].pmu.has_stuck_debugctl;

		fill(&counted[cpu], offsetof(struct pmu, in_guest), cpu * 40);
		fill(&counted[cpu].unretired, 2 * sizeof(uint64_t), cpu * 50);
		memset(flags, true, last + 1 - flags);
	}
	state_before_save();
	return advanced == BX_SMP_PROCESSORS && SIM->save_state(folder);
}

extern "C" {
bool write_data(const char *path, const uint8_t *data, size_t size)
{
	return state_write_data(path, data, size);
}
bool read_data(const char *path, uint8_t *data, size_t size)
{
	return state_read_data(path, data, size);
}
}

int main(int, char **argv)
{
	stand_in_make_cpus(atoi(argv[2]));
	state_register();
	if (!(!strcmp(argv[1], "save") ? save(argv[3]) : SIM->restore_hardware(argv[3])))
		return 2;
	show(&smi_source, sizeof(smi_source));
	for (unsigned cpu = 0; cpu < BX_SMP_PROCESSORS; cpu++)
		show(&counted[cpu], sizeof(*counted));
	return 0;
}
"""
DECLARATIONS = """
_Bool write_data(const char *path, const uint8_t *data, size_t size);
_Bool read_data(const char *path, uint8_t *data, size_t size);
"""
VERSION = int(re.findall(r"#define PMU_VERSION (\d+)", (BOCHS / "pmu.h").read_text())[0])
DAMAGED = "the saved machine's counters are damaged"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("state") / "program", DRIVER, "state.cc")


def run(emulator: Path, word: str, folder: Path, cpus: int = 2) -> str:
    """Return the bytes of the counters, or the emulator's last words."""
    words = [emulator, word, str(cpus), folder]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode == 1:
        assert done.stdout == ""
        return done.stderr.removeprefix(">>PANIC<< ").rstrip("\n")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def lines_of(folder: Path) -> list[str]:
    return (folder / "kvmtest").read_text().splitlines(keepends=True)


def test_all_that_is_saved_is_restored(emulator: Path, tmp_path: Path) -> None:
    saved = run(emulator, "save", tmp_path)
    assert len(set(saved.splitlines())) == 3
    assert run(emulator, "restore", tmp_path) == saved


def values() -> list[str]:
    """Return the names of the values of a saved machine, which stand on lines in this order."""
    source = (BOCHS / "state.cc").read_text()
    return re.findall(r'(?:new bx_shadow_\w+|add)\(list, "(\w+)"', source)


def test_each_value_that_is_damaged_or_missing_is_noticed(emulator: Path, tmp_path: Path) -> None:
    run(emulator, "save", tmp_path)
    lines = lines_of(tmp_path)
    numbers = [at for at, line in enumerate(lines) if not re.search("[{}]", line)]
    assert {name for at in numbers for name in lines[at].split()[:1]} >= set(values())
    for at in numbers:
        name, equals, value = lines[at].split()
        damaged = lines.copy()
        damaged[at] = f"{name} {equals} {int(value, 0) ^ 1}\n"
        for changed in (damaged, lines[:at] + lines[at + 1 :]):
            (tmp_path / "kvmtest").write_text("".join(changed))
            said = run(emulator, "restore", tmp_path)
            assert said == DAMAGED or (name in ("version", "cpus") and f"not {VERSION} for" in said)


def test_a_machine_with_another_models_counters_is_refused(emulator: Path, tmp_path: Path) -> None:
    run(emulator, "save", tmp_path)
    text = "".join(lines_of(tmp_path)).replace(f"version = {VERSION}\n", "version = 1\n")
    (tmp_path / "kvmtest").write_text(text)
    assert run(emulator, "restore", tmp_path) == (
        f"the saved machine has counters of version 1 for 2 CPUs, not {VERSION} for 2"
    )


def test_a_machine_of_other_cpus_is_refused(emulator: Path, tmp_path: Path) -> None:
    run(emulator, "save", tmp_path, cpus=1)
    assert run(emulator, "restore", tmp_path, cpus=2) == (
        f"the saved machine has counters of version {VERSION} for 1 CPUs, not {VERSION} for 2"
    )


def test_a_machine_without_any_counters_is_refused(emulator: Path, tmp_path: Path) -> None:
    (tmp_path / "kvmtest").write_text("kvmtest = {\n}\n")
    assert "has counters of version 0 for 0 CPUs" in run(emulator, "restore", tmp_path)


# Memory, in files of its own

PAGE, BLOCK = 4096, 0x10000
#: Sizes, with what is not zero: where it begins, and how long it is.
CONTENTS = {
    "nothing": (0, []),
    "a byte": (1, [(0, 1)]),
    "zeroes": (3 * BLOCK, []),
    "all": (2 * BLOCK + 5, [(0, 2 * BLOCK + 5)]),
    "the last byte": (2 * BLOCK + 5, [(2 * BLOCK + 4, 1)]),
    "between zeroes": (5 * BLOCK, [(BLOCK + 7, 1), (3 * BLOCK - 1, 2)]),
    "less than a page": (PAGE - 1, [(100, 1)]),
}


class Memory:
    """A part of a machine's memory, amid other things; it begins ``start`` bytes behind a page."""

    def __init__(self, library: Path, size: int, start: int) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(DECLARATIONS)
        self.lib: Any = self.ffi.dlopen(str(library))
        self.size = size
        self.around = self.ffi.new("uint8_t[]", size + 4 * PAGE)
        self.ffi.memmove(self.around, b"\xff" * (size + 4 * PAGE), size + 4 * PAGE)
        address = int(self.ffi.cast("uintptr_t", self.around))
        self.first = -address % PAGE + PAGE + start
        self.data = self.around + self.first

    def content(self) -> bytes:
        return bytes(self.ffi.buffer(self.data, self.size))

    def outside(self) -> set[int]:
        whole = bytes(self.ffi.buffer(self.around, self.size + 4 * PAGE))
        return set(whole[: self.first] + whole[self.first + self.size :])

    def write(self, path: Path) -> bool:
        return bool(self.lib.write_data(os.fsencode(path), self.data, self.size))

    def read(self, path: Path) -> bool:
        return bool(self.lib.read_data(os.fsencode(path), self.data, self.size))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_object(tmp_path_factory.mktemp("state") / "state.so", DRIVER, "state.cc")


@pytest.mark.parametrize("start", [0, 1, PAGE - 1])
@pytest.mark.parametrize("name", CONTENTS)
def test_memory_is_restored_as_it_was_and_nothing_beside_it(
    library: Path, tmp_path: Path, name: str, start: int
) -> None:
    size, parts = CONTENTS[name]
    content = bytearray(size)
    for at, length in parts:
        content[at : at + length] = b"\x5a" * length
    memory = Memory(library, size, start)
    memory.ffi.buffer(memory.data, size)[:] = bytes(content)
    assert memory.write(tmp_path / "ram")
    assert (tmp_path / "ram").read_bytes() == content
    restored = Memory(library, size, start)
    assert restored.read(tmp_path / "ram")
    assert restored.content() == content
    assert restored.outside() == {0xFF}


def test_memory_that_was_never_used_takes_no_place(library: Path, tmp_path: Path) -> None:
    memory = Memory(library, 100 * BLOCK, 0)
    memory.ffi.memmove(memory.data, bytes(100 * BLOCK), 100 * BLOCK)
    memory.data[50 * BLOCK] = 1
    assert memory.write(tmp_path / "ram")
    (tmp_path / "full").write_bytes(bytes(range(256)) * 256 * 100)
    used = {path.name: path.stat().st_blocks for path in tmp_path.iterdir()}
    if used["full"] * 512 < 99 * BLOCK:
        pytest.skip("this file system does not tell what files use")
    assert used["ram"] * 512 <= 2 * BLOCK


@pytest.mark.parametrize("difference", [-1, 1])
def test_memory_of_another_size_is_not_restored(
    library: Path, tmp_path: Path, difference: int
) -> None:
    (tmp_path / "ram").write_bytes(bytes(BLOCK + difference))
    memory = Memory(library, BLOCK, 0)
    assert not memory.read(tmp_path / "ram")
    assert set(memory.content()) == {0xFF}


def test_memory_that_can_not_be_kept_or_is_not_there_is_no_success(
    library: Path, tmp_path: Path
) -> None:
    memory = Memory(library, BLOCK, 0)
    assert not memory.write(tmp_path / "nowhere/ram")
    assert not memory.write(Path("/dev/full"))
    assert not memory.read(tmp_path / "ram")
