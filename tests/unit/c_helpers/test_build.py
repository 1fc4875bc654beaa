"""The pure parts of c_helpers/build.py: what is taken over of preprocessed C, and how."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

BUILD = Path(__file__).parents[3] / "c_helpers" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    if not BUILD.exists():
        pytest.skip("needs the source tree: c_helpers/build.py")
    spec = importlib.util.spec_from_file_location("native_build", BUILD)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_statements_end_at_top_level_only(build: ModuleType) -> None:
    text = """
    typedef unsigned int __u32;
    struct a { int b; struct { int c; } d; };
    static inline int f(void) { int x; return x; }
    enum e { ONE, TWO };
    int g(int);
    """
    assert list(build.statements(text)) == [
        "typedef unsigned int __u32;",
        "struct a { int b; struct { int c; } d; };",
        "static inline int f(void) { int x; return x; }",
        "enum e { ONE, TWO };",
        "int g(int);",
    ]


def test_white_space_is_folded(build: ModuleType) -> None:
    assert list(build.statements("struct\n\ta\n{\n};")) == ["struct a { };"]


def test_an_unfinished_declaration_is_no_statement(build: ModuleType) -> None:
    assert list(build.statements("int a; struct b {")) == ["int a;"]


@pytest.mark.parametrize(
    "statement",
    [
        "typedef unsigned char __u8;",
        "struct kvm_regs { __u64 rax; };",
        "struct run_stamp { uint64_t entry, exit; };",
        "struct mailbox { uint32_t magic; };",
        "struct toggler { int fd; };",
        "struct guest_gap { uint64_t begin; };",
        "struct perf_event_attr { __u64 disabled : 1, inherit : 1; };",
        "enum run_end { RUN_EXIT };",
        "enum kvm_tdx_cmd_id { KVM_TDX_CAPABILITIES = 0, };",
        "enum perf_event_read_format { PERF_FORMAT_ID = 1U << 2, };",
        "void run_stop(struct runner *runner);",
        "void toggler_run(struct toggler *toggler);",
    ],
)
def test_what_python_needs_is_taken_as_it_stands(build: ModuleType, statement: str) -> None:
    assert build.declaration(statement) == statement


@pytest.mark.parametrize(
    "statement",
    [
        "struct timespec { long tv_sec; };",
        "typedef struct { int x; } fsid_t;",
        "extern int printf(const char *, ...);",
        "static inline uint64_t clock_tsc(void) { return 0; }",
        "enum other { A };",
        "enum perf_event_type { PERF_RECORD_MMAP = 1, };",
        "struct perf_event_mmap_page { __u32 version; };",
        "int deadline_begin(struct kvm_run *run, int64_t deadline);",
        "struct kvm_forward;",
    ],
)
def test_what_python_does_not_need_is_left_out(build: ModuleType, statement: str) -> None:
    assert build.declaration(statement) is None


def test_compiler_extensions_are_put_into_plain_c(build: ModuleType) -> None:
    assert (
        build.declaration("__extension__ typedef __signed__ long long __s64;")
        == "typedef signed long long __s64;"
    )


def test_a_flexible_array_keeps_its_name(build: ModuleType) -> None:
    declared = (
        "struct kvm_cpuid2 { __u32 nent; __u32 padding; "
        "struct { struct { } __empty_entries; struct kvm_cpuid_entry2 entries[]; }; };"
    )
    assert " ".join(build.struct(declared).split()) == (
        "struct kvm_cpuid2 { __u32 nent; __u32 padding; struct kvm_cpuid_entry2 entries[]; };"
    )


def test_a_union_of_flexible_arrays_leaves_the_structure_open(build: ModuleType) -> None:
    declared = (
        "struct kvm_nested_state { __u16 flags; "
        "union { struct { struct { } __empty_vmx; struct a vmx[]; }; "
        "struct { struct { } __empty_svm; struct b svm[]; }; } data; };"
    )
    assert build.struct(declared) == "struct kvm_nested_state { __u16 flags; ...; };"


def test_kvm_run_is_open_and_keeps_of_nameless_unions_the_last_member(build: ModuleType) -> None:
    declared = (
        "struct kvm_run { __u8 request; union { "
        "struct { __u64 nr; union { __u32 longmode; __u64 flags; }; } hypercall; "
        "struct { __u32 type; union { __u64 flags; __u64 data[16]; }; } system_event; "
        "struct { __u64 nr; union { struct { __u64 ret; __u64 data[5]; } unknown; "
        "struct { __u64 gpa; } get_quote; }; } tdx; "
        "char padding[256]; }; };"
    )
    assert build.struct(declared) == (
        "struct kvm_run { __u8 request; union { "
        "struct { __u64 nr; __u64 flags; } hypercall; "
        "struct { __u32 type; __u64 data[16]; } system_event; "
        "char padding[256]; }; ...; };"
    )


def test_other_structures_keep_their_unions(build: ModuleType) -> None:
    declared = "struct kvm_hyperv_exit { __u32 type; union { __u64 a; __u64 b[2]; } u; };"
    assert build.struct(declared) == declared


def test_array_sizes_are_worked_out(build: ModuleType) -> None:
    declared = "struct kvm_sregs { __u64 interrupt_bitmap[(256 + 63) / 64]; };"
    assert build.struct(declared) == "struct kvm_sregs { __u64 interrupt_bitmap[4]; };"


@pytest.mark.parametrize(
    ("expression", "value"),
    [("8", 8), ("0x10", 16), ("(256 + 63) / 64", 4), ("2 * (3 + 4) - 1", 13), ("7 / 2", 3)],
)
def test_an_array_size_is_c_arithmetic(build: ModuleType, expression: str, value: int) -> None:
    assert build.array_size(expression) == value


@pytest.mark.parametrize("expression", ["sizeof(int)", "N", "__import__('os')", "1 << 2", "1; 2"])
def test_an_array_size_that_is_more_is_refused(build: ModuleType, expression: str) -> None:
    with pytest.raises(ValueError, match="array size is no plain arithmetic"):
        build.array_size(expression)


@given(st.integers(0, 4096), st.integers(1, 64))
def test_rounding_up_is_done_as_the_compiler_does(build: ModuleType, count: int, unit: int) -> None:
    assert build.array_size(f"({count} + {unit - 1}) / {unit}") == (count + unit - 1) // unit


def test_the_constants_are_macros_with_integer_values(build: ModuleType) -> None:
    names = build.constants()
    some = {"KVM_RUN", "KVM_CAP_IRQCHIP", "GUEST_MAGIC", "GUEST_IMAGE", "PERF_EVENT_IOC_ENABLE"}
    assert some <= set(names)
    # A macro that takes arguments, or is no number, is not among them.
    assert not {name for name in names if "(" in name}
    assert len(names) == len(set(names))
