"""The native module
=================

Builds ``kvmtest._native`` with cffi in API mode. Every constant, structure and function comes from
``native.h`` as the compiler sees it on the building machine, kernel headers included: nothing is
typed in a second time. The compiler has the last word on layouts: a structure that differs from it
by a byte is refused at its first use.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
INCLUDES = [HERE, HERE.parent / "guests"]
SOURCES = ["deadline.c", "run_loop.c", "toggler.c"]

# Which declarations of the preprocessed header Python is to see.
STRUCTS = re.compile(
    r"kvm_\w+|kvmtest_\w+|runner|run_\w+|toggle\w+|mailbox|guest_\w+|perf_event_attr|vmcs12"
)
ENUMS = re.compile(
    r"kvm_tdx_cmd_id|run_end|perf_(?:type_id|hw_id|sw_ids|event_(?:read_format|ioc_flags))"
)
FUNCTIONS = re.compile(r"(?:run_(?:once|loop|stop|clear_stop|close)|toggler_run) \(", re.VERBOSE)
CONSTANTS = re.compile(
    r"KVM_|KVMIO|GUEST_|COMMANDS?\b|COMMAND_|RESULT_|MAILBOX_|REGISTERS_|PERF_|VMCS12_|VMX_|EXIT_REASON_"
)
EXTRA = """
uint64_t clock_tsc(void);
int64_t clock_now(void);
int kvm_ioctl(int fd, unsigned long request, void *argument);
void *kvm_mmap(int fd, size_t size);
int kvm_munmap(void *address, size_t size);
int perf_open(struct perf_event_attr *attr, int thread, int cpu, int group);
"""


def compiler() -> list[str]:
    """Return the C compiler's command, $CC or cc, with our include folders."""
    return [*shlex.split(os.environ.get("CC", "cc")), *(f"-I{folder}" for folder in INCLUDES)]


def preprocess(*flags: str) -> str:
    """Return native.h after the preprocessor."""
    command = [*compiler(), "-E", *flags, str(HERE / "native.h")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def statements(text: str) -> Iterator[str]:
    """Yield the top-level declarations of preprocessed C, one string each, white space folded."""
    depth, start = 0, 0
    for at, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        # A function's body ends without a semicolon.
        body_ends = character == "}" and not depth and ")" in text[start:at].split("{")[0]
        if not depth and (character == ";" or body_ends):
            yield " ".join(text[start : at + 1].split())
            start = at + 1


def declaration(statement: str) -> str | None:
    """Return what cffi is to be told of a declaration, or None where Python needs nothing of it."""
    statement = statement.replace("__extension__ ", "").replace("__signed__", "signed")
    if re.fullmatch(r"typedef [a-z ]+ __[us](8|16|32|64);", statement):
        return statement
    if match := re.match(r"struct (\w+) \{", statement):
        return struct(statement) if STRUCTS.fullmatch(match[1]) else None
    if match := re.match(r"enum (\w+) \{", statement):
        return statement if ENUMS.fullmatch(match[1]) else None
    if FUNCTIONS.search(statement) and statement.endswith(");"):
        return statement
    return None


def struct(statement: str) -> str:
    """Return a structure in the words that cffi knows.

    Flexible arrays inside a union (struct kvm_nested_state) are only an address, and dropped: the
    structure is then left open, and the compiler says where its members are. So is struct kvm_run,
    to which every kernel adds. cffi lays the members of a nameless union out one after the other
    where the structure around it has no name either: only the last and largest is kept
    (kvm_run.system_event, kvm_run.hypercall), or nothing where they are structures (kvm_run.tdx).
    Mutexes are the native side's own.
    """
    statement, mutexes = re.subn(r"pthread_mutex_t \w+; ", "", statement)
    is_open = bool(mutexes)
    if statement.startswith("struct kvm_run "):
        is_open = True
        unions = r"struct \{ [^{}]*union \{ (?:struct \{ [^{}]*\} \w+; )+\}; \} \w+; "
        statement = re.sub(unions, "", statement)
        statement = re.sub(r"union \{ [^{}]*?(\w+ \w+(?:\[\d+\])?;) \};", r"\1", statement)
    flexible = r"union \{ (?:struct \{ struct \{ \} __empty_\w+; [^}]*\}; |[^{}]*\[0\]; )+\} \w+; "
    statement, dropped = re.subn(flexible, "", statement)
    statement = re.sub(r"struct \{ struct \{ \} __empty_\w+; (.*?)\};", r"\1", statement)
    statement = re.sub(r"\[([^]]+)\]", lambda size: f"[{array_size(size[1])}]", statement)
    return statement.removesuffix("};") + "...; };" if dropped or is_open else statement


def array_size(expression: str) -> int:
    """Return the value of an array size such as ``(256 + 63) / 64``."""
    if not re.fullmatch(r"[0-9a-fx+*/() -]+", expression):
        raise ValueError(f"array size is no plain arithmetic: {expression}")
    return int(eval(expression.replace("/", "//"), {"__builtins__": {}}))


def constants() -> list[str]:
    """Return the names of all macros of interest that are integer constants here."""
    names = [
        line.split()[1]
        for line in preprocess("-dM").splitlines()
        if CONSTANTS.match(line.removeprefix("#define ")) and "(" not in line.split()[1]
    ]
    # An enumerator must be a constant expression: the compiler names the lines that are not.
    lines = ['#include "native.h"', *(f"enum {{ is_{name} = ({name}) != 0 }};" for name in names)]
    check = [*compiler(), "-fsyntax-only", "-fno-diagnostics-show-caret", "-xc", "-"]
    result = subprocess.run(check, input="\n".join(lines), capture_output=True, text=True)
    bad = {int(number) - 2 for number in re.findall(r"^<stdin>:(\d+):", result.stderr, re.M)}
    return [name for at, name in enumerate(names) if at not in bad]


def make_ffi() -> FFI:
    """Return the builder that setuptools runs."""
    ffi = FFI()
    known = [text for text in map(declaration, statements(preprocess("-P"))) if text]
    ffi.cdef("\n".join(known))
    ffi.cdef(EXTRA)
    ffi.cdef("\n".join(f"#define {name} ..." for name in constants()))
    sanitize = ["-fsanitize=address,undefined"] if os.environ.get("KVMTEST_SANITIZE") else []
    ffi.set_source(
        "kvmtest._native",
        '#include "native.h"',
        sources=[os.path.relpath(HERE / name) for name in SOURCES],
        depends=[str(path) for folder in INCLUDES for path in sorted(folder.glob("*.h"))],
        include_dirs=[str(folder) for folder in INCLUDES],
        extra_compile_args=["-std=gnu11", "-O2", "-g", *sanitize],
        extra_link_args=sanitize,
    )
    return ffi


ffibuilder = make_ffi()
