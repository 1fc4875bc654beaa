"""c_helpers/bochs/hooks.c: what is as expected is replaced, and nothing else."""

import subprocess
from pathlib import Path
from shutil import which

import pytest
from support.bochs_part import BOCHS

pytestmark = pytest.mark.skipif(which("cc") is None, reason="needs a C compiler")

# Plays the emulator: one function that begins as the emulator's do, two that a table points to.
PROGRAM = r"""
#include "build.c"
#include "hooks.c"

asm(".globl greet\n"
    "greet: push %r14\n lea text(%rip), %rsi\n push %r13\n push %r12\n mov %rdi, %r12\n"
    "mov %rsi, %rax\n add %r12, %rax\n pop %r12\n pop %r13\n pop %r14\n ret\n"
    ".data\ntext: .asciz \"hello\"\n.text\n");
const char *greet(long skip);

void one(void) { puts("one"); }
void other(void) { puts("other"); }
void ours(void) { puts("ours"); }

void *once[] = { other, one, other }, *twice[] = { one, other, one }, *never[] = { other };

static const char *(*original)(long skip);

static const char *greet_loudly(long skip)
{
	printf("%s!\n", original(skip));
	return "HELLO";
}

static void replace_greet(size_t size, uint8_t last)
{
	uint8_t bytes[16];

	memcpy(bytes, greet, sizeof(bytes));
	bytes[15] ^= last;
	original = hook_function("greet", bytes, size, 2, greet_loudly);
	puts(greet(1));
}

int main(int argc, char **argv)
{
	const char *what = argv[argc - 1];

	if (!strcmp(what, "function"))
		replace_greet(16, 0);
	if (!strcmp(what, "other bytes"))
		replace_greet(16, 1);
	if (!strcmp(what, "too short"))
		replace_greet(13, 0);
	if (!strcmp(what, "symbol"))
		hook_symbol("nowhere");
	if (!strcmp(what, "once")) {
		((void (*)(void))hook_word("once", 3, "one", ours))();
		for (int i = 0; i < 3; i++)
			((void (*)(void))once[i])();
	}
	if (!strcmp(what, "twice"))
		hook_word("twice", 3, "one", ours);
	if (!strcmp(what, "never"))
		hook_word("never", 1, "one", ours);
	return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hooks") / "program"
    command = ["cc", "-std=gnu11", "-fno-builtin", "-rdynamic", f"-I{BOCHS}", "-o", path]
    subprocess.run([*command, "-x", "c", "-", "-ldl"], input=PROGRAM, text=True, check=True)
    return path


def run(program: Path, what: str) -> tuple[int, str, str]:
    done = subprocess.run([program, what], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_replaced_function_can_still_be_called_as_it_was(program: Path) -> None:
    assert run(program, "function") == (0, "ello!\nHELLO\n", "")


def test_the_one_word_that_points_to_a_function_is_replaced(program: Path) -> None:
    assert run(program, "once") == (0, "one\nother\nours\nother\n", "")


@pytest.mark.parametrize(
    ("what", "name"),
    [("other bytes", "greet"), ("too short", "greet"), ("symbol", "nowhere"), ("twice", "one"),
     ("never", "one")],
)  # fmt: skip
def test_what_is_not_as_expected_ends_the_program_in_one_line(
    program: Path, what: str, name: str
) -> None:
    assert run(program, what) == (75, "", f"bochs: the emulator can't be extended: {name}\n")
