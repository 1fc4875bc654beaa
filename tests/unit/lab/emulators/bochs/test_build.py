"""lab/emulators/bochs/build.py: what is built, when it is built anew, and what is said if it fails.

A small source takes the emulator's place (support/emulator_source.py).
"""

import os
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import pytest
from support.emulator_source import PATCH, Hanging, Source, needs_tools

from kvmtest.distribution import install
from kvmtest.lab.emulators.bochs import build as subject
from kvmtest.lab.emulators.bochs.build import BuildFailed, Cancelled

pytestmark = needs_tools

Patch = pytest.MonkeyPatch


@pytest.fixture
def source(tmp_path: Path, monkeypatch: Patch) -> Source:
    return Source.install(tmp_path, monkeypatch)


def failure(source: Source, archive: Path | None = None) -> str:
    with pytest.raises(BuildFailed) as caught:
        source.builder().build(archive or source.archive())
    said = str(caught.value)
    assert "\n" not in said
    assert source.kept() == []
    return said


def test_it_is_made_of_the_patched_source_and_the_labs_parts(source: Source) -> None:
    made = source.builder().build(source.archive())
    lines = made.program.read_text().splitlines()
    assert lines[:5] == ["the loop", "calls a part", "main", "memory", "counters"]
    assert (made.bios.read_text(), made.vga_bios.read_text()) == ("BIOS", "VGA BIOS")
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "COPYING", "bios.bin", "bochs", "vgabios.bin",
    ]  # fmt: skip


def test_it_is_configured_for_the_parts_and_without_a_debugger(source: Source) -> None:
    lines = source.builder().build(source.archive()).program.read_text().splitlines()
    for option in ("--enable-instrumentation=instrument/kvmtest", "--disable-debugger"):
        assert option in lines
    assert f"CXX={source.root}/CXX/compiler" in lines
    assert "CXXFLAGS=-O2 -fno-strict-aliasing -fno-pie" in lines
    assert "LDFLAGS=-no-pie" in lines


def test_it_is_told_how_far_it_is(source: Source) -> None:
    source.builder().build(source.archive())
    assert source.steps == [
        "building the emulator, once",
        *(f"building the emulator: {done} of 4 files" for done in (1, 2, 3, 4)),
    ]


def test_it_is_built_once(source: Source) -> None:
    first = source.builder().build(source.archive())
    steps, compiled = source.steps.copy(), source.compiled()
    assert source.builder().build(source.archive()) == first
    assert (source.steps, source.compiled()) == (steps, compiled)


CHANGES: dict[str, Callable[[Source, Patch], object]] = {
    "source": lambda source, _: source.files.update({"main.cc": "other\n"}),
    "part": lambda source, _: source.write("parts/counted.cc", "others\n"),
    "new part": lambda source, _: source.write("parts/new.h", ""),
    "patch": lambda source, _: source.write(
        "parts/bochs.patch", PATCH.replace("calls", "does without")
    ),
    "options": lambda _, patch: patch.setattr(subject, "_OPTIONS", ("--disable-smp",)),
    "flags": lambda _, patch: patch.setattr(subject, "_FLAGS", "-O2"),
    "C compiler": lambda source, _: source.write("CC/version", "CC 2\n"),
    "C++ compiler": lambda source, _: source.write("CXX/version", "CXX 2\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_it_is_made_of_has_it_built_anew(
    source: Source, monkeypatch: Patch, change: str
) -> None:
    before = source.builder().build(source.archive())
    CHANGES[change](source, monkeypatch)
    after = source.builder().build(source.archive())
    assert after.digest != before.digest
    assert source.kept() == sorted([before.digest, after.digest])


def test_nobody_elses_variables_reach_it(source: Source, monkeypatch: Patch) -> None:
    # As kvmtest sees them that was started by make, by a user who builds packages.
    others = {"MAKEFLAGS": "n", "LDFLAGS": "-static", "CPPFLAGS": "-DX", "CONFIG_SITE": "/nowhere"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    text = source.builder().build(source.archive()).program.read_text()
    assert not [name for name, value in others.items() if f"\n{name}={value}\n" in text]
    assert "\nLC_ALL=C\n" in text


# What can fail


def test_a_patch_that_does_not_fit_is_named_with_the_file(source: Source) -> None:
    source.files["cpu/cpu.cc"] = "another loop\n"
    said = failure(source)
    assert said.startswith("the emulator can't be built: patch failed: ")
    assert "FAILED" in said
    assert "cpu/cpu.cc" in said
    assert source.compiled() == []


def test_a_patch_of_a_file_that_is_not_there_is_named(source: Source) -> None:
    del source.files["cpu/cpu.cc"]
    assert failure(source).startswith(
        "the emulator can't be built: patch failed: can't find file to patch"
    )


def test_a_source_that_does_not_compile_is_named_with_the_error(source: Source) -> None:
    source.files["memory.cc"] += "#error\n"
    assert failure(source) == (
        "the emulator can't be built: make failed: memory.cc:1:2: error: #error said so"
    )


@pytest.mark.skipif(which("c++") is None, reason="needs a C++ compiler")
def test_a_compilers_own_error_is_told(source: Source, monkeypatch: Patch) -> None:
    monkeypatch.setenv("CXX", "c++")
    assert re.search(r"make failed: [\w/]+\.cc:1:1: error: \S+", failure(source))


def test_a_configuration_that_fails_is_told(source: Source) -> None:
    source.files["configure"] = "#!/bin/sh\necho checking; echo 'configure: error: no!'; exit 1\n"
    assert failure(source) == (
        "the emulator can't be built: ./configure failed: configure: error: no!"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CC", f"there is no C compiler (/nowhere/cc); {install('gcc')}"),
        ("CXX", f"there is no C++ compiler (/nowhere/cc); {install('g++')}"),
    ],
)
def test_without_a_compiler_one_is_told_what_to_install(
    source: Source, monkeypatch: Patch, name: str, said: str
) -> None:
    monkeypatch.setenv(name, "/nowhere/cc")
    assert failure(source) == said


@pytest.mark.parametrize("missing", ["make", "patch"])
def test_without_a_tool_one_is_told_what_to_install(
    source: Source, monkeypatch: Patch, missing: str
) -> None:
    only = source.root / "bin"
    only.mkdir()
    for name in {"make", "patch", "sh", "cat", "dirname", "sed", "env", "grep", "cp"} - {missing}:
        (only / name).symlink_to(str(which(name)))
    monkeypatch.setenv("PATH", str(only))
    assert failure(source) == f"{missing} is missing; {install(missing)}"


def test_what_is_no_archive_is_refused(source: Source) -> None:
    archive = source.archive()
    for content in (b"", b"no archive", archive.read_bytes()[:200]):
        archive.write_bytes(content)
        assert failure(source, archive).startswith(f"{archive} is no archive of the emulator's ")


def member(name: str, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    if link:
        made.type, made.linkname = tarfile.SYMTYPE, link
    return made


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="needs Python 3.11.4")
@pytest.mark.parametrize(
    "outside",
    [
        lambda root: member(f"{root}/outside"),
        lambda root: member("bochs-3.0/../../../../outside"),
        lambda root: member("bochs-3.0/link", str(root)),
        lambda root: member("bochs-3.0/link", "../../../.."),
    ],
    ids=["absolute", "above", "link to absolute", "link to above"],
)
def test_an_archive_that_reaches_outside_is_refused(
    source: Source, outside: Callable[[Path], tarfile.TarInfo]
) -> None:
    said = failure(source, source.archive(outside(source.root)))
    assert "is no archive of the emulator's source" in said
    assert not [path for path in source.root.rglob("*") if path.name in ("outside", "link")]


# Cancelled


def test_who_cancels_it_ends_all_its_processes_and_nothing_is_kept(source: Source) -> None:
    hanging = Hanging(source, "memory.cc")
    builder = source.builder()
    with ThreadPoolExecutor(1) as thread:
        built = thread.submit(builder.build, source.archive())
        assert hanging.has_begun()
        builder.cancel()
        with pytest.raises(Cancelled):
            built.result()
    assert hanging.has_ended()
    assert source.kept() == []


def test_what_was_cancelled_before_it_began_does_not_begin(source: Source) -> None:
    builder = source.builder()
    builder.cancel()
    with pytest.raises(Cancelled):
        builder.build(source.archive())
    assert source.compiled() == []
    assert source.kept() == []


def test_cancelling_what_has_ended_sends_no_signal(source: Source, monkeypatch: Patch) -> None:
    builder = source.builder()
    builder.build(source.archive())
    # Its number may be another process's by now.
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("a signal was sent"))
    builder.cancel()


def test_a_make_that_plans_nothing_in_our_words_shows_no_progress() -> None:
    steps: list[str] = []
    subject._Quarters(0, steps.append).line("g++ -c cpu.cc -o cpu.o\n")
    assert steps == []
