"""The excerpt of a dump shows which VMCS it is of, and its DebugCtl; never another dump's."""

import pytest

from kvmtest.report.html.log_excerpt import dump_of


def dump(base: int, debugctl: int, head: str = "kvm_intel: ") -> list[str]:
    return [
        f"{head}VMCS 00000000e584440c, last attempted VM-entry on CPU 0",
        f"{head}*** Guest State ***",
        f"{head}CR3 = 0x0000000000002000",
        f"{head}FS:   sel=0x0010, attr=0x0c093, limit=0xffffffff, base=0x{base:016x}",
        f"{head}EFER= 0x0000000000000500",
        f"{head}DebugCtl = 0x{debugctl:016x}  DebugExceptions = 0x0000000000000000",
        f"{head}*** Host State ***",
        f"{head}FSBase=00007f54ac35d040 GSBase=ffff888017600000 TRBase=fffffe0000003000",
    ]


LOG = [*dump(0xB29C3C626ABFA92, 0), *dump(0x69781E71D9BAF317, 0x4000)]


@pytest.mark.parametrize(("base", "first"), [("0xb29c3c626abfa92", 0), ("0x69781e71d9baf317", 8)])
def test_the_dump_is_found_by_its_fs_base(base: str, first: int) -> None:
    lines = LOG[first : first + 8]
    assert list(dump_of(base, LOG)) == [
        lines[0], lines[1], "  ...", lines[3], "  ...", lines[5],
    ]  # fmt: skip


def test_an_older_kernel_names_no_vmcs() -> None:
    lines = dump(0xB29C3C626ABFA92, 0)[1:]
    assert next(dump_of("0xb29c3c626abfa92", lines)) == lines[0]


@pytest.mark.parametrize("base", ["0x1", "no number", "", "0x" + "f" * 40])
def test_what_is_not_in_the_log_has_no_excerpt(base: str) -> None:
    assert list(dump_of(base, LOG)) == []


def test_a_dump_that_is_cut_short_shows_what_is_there() -> None:
    assert list(dump_of("0xb29c3c626abfa92", LOG[3:4])) == LOG[3:4]
