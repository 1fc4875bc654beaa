"""Hits are parsed from the trace as it is."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvmtest.host.observe.trace import (
    Hit,
    Hits,
    TracePipe,
    TracingError,
    has_lost,
    parse_hits,
    parse_passed,
)

LINE = (
    "          kvmtest-127     [000] d..2.    58.186063: entry: "
    "(vmx_vcpu_run+0x0/0x8d0 [kvm_intel]) flags=0x4\n"
)
HEADING = "# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"


def test_a_hit_has_task_cpu_time_and_arguments() -> None:
    hits = parse_hits(HEADING + LINE, "entry")
    assert hits == Hits((Hit(127, 0, 58_186_063, {"flags": 4}, "vmx_vcpu_run"),))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "     <...>-9     [011] ..... 12345.000001: entry: (f+0x4/0x8) flags=0x0 vcpu=0xff",
            Hit(9, 11, 12345_000001, {"flags": 0, "vcpu": 255}, "f"),
        ),
        (
            " qemu-4 [x]-77  (   70) [003] d..1 1.000000: entry: (f <- g) a=0x8000000000000000",
            Hit(77, 3, 1_000000, {"a": 1 << 63}, "f"),
        ),
        (" CPU 0/KVM-77 [003] 1.000000: entry: (f+0x0/0x1)", Hit(77, 3, 1_000000, {}, "f")),
    ],
)
def test_a_hit_is_read_in_every_form_of_the_trace(line: str, expected: Hit) -> None:
    assert parse_hits(line + "\n", "entry").hits == (expected,)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1))
@example("a\x0bb\x85c\u2028d")
def test_a_task_may_have_any_name(name: str) -> None:
    text = f"{name}-12 [001] d..2. 1.000002: entry: (f+0x0/0x1) flags=0x1\n"
    if name.startswith("#"):
        return
    assert parse_hits(text, "entry").hits == (Hit(12, 1, 1_000002, {"flags": 1}, "f"),)


def test_lost_events_are_told() -> None:
    assert parse_hits(LINE + "CPU:1 [LOST 5 EVENTS]\n" + LINE, "entry").lost
    assert parse_hits("CPU:0 [LOST EVENTS]\n", "entry") == Hits((), True)
    assert not parse_hits(LINE, "entry").lost
    assert (Hits((), True) + Hits()).lost


def test_other_events_are_left_out() -> None:
    assert parse_hits(LINE.replace("entry:", "exit:"), "entry") == Hits()


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "x-1 [0] entry: ()",
        LINE.replace("58.", "58,"),
        *(LINE.replace("0x4", value) for value in ("1x4", "4", "(fault)", "0x", "0x\u0664")),
    ],
)
def test_what_is_no_line_of_a_trace_is_refused(line: str) -> None:
    with pytest.raises(TracingError, match="is no line of a trace"):
        parse_hits(line, "entry")


# Lines of Linux 6.12 and 7.3.
KVM_ENTRY = (
    "       CPU 0/KVM-2437    [001] d..1.  1234.567890: kvm_entry: vcpu 3, rip 0xffffffff81000000"
    " intr_info 0x800000ec error_code 0x00000000\n"
)
KVM_EXIT = (
    "     q (x) 1/KVM-2438    (   2431) [000] d..1.  1234.567891: kvm_exit: vcpu 0 reason "
    "EPT_VIOLATION rip 0x1 info1 0x181 info2 0x0 intr_info 0x0 error_code 0x0 requests 0x0\n"
)
KVM_HEADING = "# tracer: nop\n#\nCPU:1 [LOST 12 EVENTS]\n"


def test_any_events_are_parsed() -> None:
    entry, gone = parse_passed(KVM_HEADING + KVM_ENTRY + KVM_EXIT)
    assert entry[:4] == (2437, 1, 1_234_567_890, "kvm_entry")
    assert (entry.vcpu, entry.exit_reason) == (3, "")
    assert gone[:4] == (2438, 0, 1_234_567_891, "kvm_exit")
    assert (gone.vcpu, gone.exit_reason) == (0, "EPT_VIOLATION")
    assert [has_lost(text) for text in (KVM_HEADING + KVM_ENTRY, KVM_ENTRY)] == [True, False]


def test_an_exit_of_an_old_kernel_names_no_vcpu() -> None:
    (event,) = parse_passed(" q-1  [000] d..1 1.000000: kvm_exit: reason HLT rip 0x1 info 0 0\n")
    assert (event.vcpu, event.exit_reason) == (None, "HLT")


def test_a_pipe_gives_whole_lines_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "trace_pipe"
    os.mkfifo(path)
    pipe = TracePipe(path)
    with path.open("wb", buffering=0) as kernel:
        assert pipe.read() == ""
        kernel.write(b"one\ntw\xff")
        assert pipe.read() == "one\n"
        kernel.write(b"o\n")
        assert pipe.read() == "tw\ufffdo\n"
    pipe.close()
    pipe.close()


def test_a_pipe_says_why_it_can_not_be_opened_or_read(tmp_path: Path) -> None:
    with pytest.raises(TracingError, match="missing can't be opened: No such file or directory; "):
        TracePipe(tmp_path / "missing")
    pipe = TracePipe(tmp_path)
    with pytest.raises(TracingError, match="can't be read: Is a directory"):
        pipe.read()
    pipe.close()
