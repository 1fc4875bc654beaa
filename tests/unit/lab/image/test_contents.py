"""lab/image/contents.py: what a machine is booted with, as modprobe and the kernel read it."""

import json
import shlex

import pytest

from kvmtest.kernels.modules import Module
from kvmtest.lab.image import contents as image
from kvmtest.lab.image.cpio import Directory, Entry, File, Link

MODULES = [
    Module("irqbypass", b"1"),
    Module("kvm", b"2", ("irqbypass",)),
    Module("kvm_intel", b"3", ("kvm",)),
    Module("msr", b"4", ("built_in",)),
]


def text(entry: Entry) -> str:
    assert isinstance(entry, File)
    return entry.data.decode()


def test_modules_are_where_modprobe_looks_for_them() -> None:
    entries = image.module_entries("6.12.1", MODULES)
    assert entries["lib/modules/6.12.1/kvm-intel.ko"] == File(b"3")
    assert entries["lib/modules/6.12.1/modules.alias"] == File(b"")


def test_modprobe_is_told_all_that_a_module_needs_nearest_first() -> None:
    lines = text(image.module_entries("6.12.1", MODULES)["lib/modules/6.12.1/modules.dep"])
    assert lines.splitlines() == [
        "irqbypass.ko:",
        "kvm.ko: irqbypass.ko",
        "kvm-intel.ko: kvm.ko irqbypass.ko",
        "msr.ko:",
    ]


def test_the_init_loads_the_modules_in_their_order_with_their_arguments() -> None:
    lines = text(image.own_entries(MODULES)["lab/modules"]).splitlines()
    assert [shlex.split(line) for line in lines] == [
        ["irqbypass"], ["kvm"], ["kvm_intel", "nested=1"], ["msr"],
    ]  # fmt: skip


def test_programs_can_be_run_and_all_that_init_names_is_there() -> None:
    entries = image.own_entries(MODULES)
    init, port = entries["init"], entries["lab/port"]
    assert isinstance(init, File)
    assert isinstance(port, File)
    assert init.executable
    assert port.executable
    assert port.data.startswith(b"\x7fELF")
    for name in ("/lab/agent.py", "/lab/modules"):
        assert name.encode() in init.data
        assert name[1:] in entries


def test_what_the_agent_imports_first_is_there_to_import() -> None:
    for name in json.loads(text(image.own_entries([])["lab/imports"])):
        __import__(name)
        assert not name.startswith("kvmtest")


def test_the_command_line_is_one_line_that_the_boot_loader_takes() -> None:
    assert image.COMMAND_LINE.isprintable()
    # ISOLINUX and the kernel take 2047 characters (COMMAND_LINE_SIZE).
    assert len(image.COMMAND_LINE) < 1500
    assert "rdinit=/init" in image.COMMAND_LINE.split()


OTHERS: list[dict[str, Entry]] = [
    {},
    {"b": File(b"x")},
    {"a": File(b"y")},
    {"a": File(b"x", executable=True)},
    {"a": Link("x")},
    {"a": Link("y")},
    {"a": Directory()},
    {"a": File(b"x"), "b": File(b"")},
]


@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_any_change_changes_the_digest(other: dict[str, Entry]) -> None:
    assert image.digest(other) != image.digest({"a": File(b"x")})


def test_the_order_of_entries_does_not_change_the_digest() -> None:
    entries: dict[str, Entry] = {"a": File(b"x"), "b": Link("a")}
    assert image.digest(dict(reversed(entries.items()))) == image.digest(entries)
