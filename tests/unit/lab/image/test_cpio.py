"""lab/image/cpio.py: the archive holds what was put in, to readers that are not ours."""

import os
import stat
import subprocess
from pathlib import Path
from random import Random
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.lab.image.cpio import Directory, Entry, File, Link, archive

PARTS = st.text("ab.-_ é\n\\", min_size=1, max_size=8)
NAMES = st.lists(PARTS.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map(
    "/".join
)
ENTRIES = st.dictionaries(
    NAMES,
    st.builds(File, st.binary(max_size=50), st.booleans())
    | st.builds(Link, PARTS)
    | st.just(Directory()),
    max_size=6,
)

MIXED: dict[str, Entry] = {
    "init": File(b"#!/bin/sh\n", executable=True),
    "bin/sh": Link("busybox"),
    "bin/busybox": File(b"\x7fELF" + bytes(1000), executable=True),
    "etc/a name": File(b"x"),
    "etc/é": File(b""),
    "var/empty": Directory(),
}


def read(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read an archive as buffer-format.rst describes it: mode and content by name."""
    found: dict[str, tuple[int, bytes]] = {}
    numbers = set()
    at = 0
    while True:
        assert data[at : at + 6] == b"070701", "no header where one must be"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        number, mode, uid, gid, links, mtime, size = fields[:7]
        assert fields[7:11] == [0, 0, 0, 0], "a device"
        assert fields[12] == 0, "a checksum in the format without"
        end = at + 110 + fields[11]
        assert data[end - 1] == 0
        name = os.fsdecode(data[at + 110 : end - 1])
        start = (end + 3) & ~3
        assert not any(data[end:start])
        if name == "TRAILER!!!":
            assert size == 0
            assert not any(data[start:])
            return found
        assert (uid, gid, mtime) == (0, 0, 0)
        # Equal numbers and more than one link would be a hard link.
        assert number not in numbers
        numbers.add(number)
        assert links == (2 if stat.S_ISDIR(mode) else 1)
        assert name not in found
        found[name] = mode, data[start : start + size]
        at = (start + size + 3) & ~3


def expected(entries: dict[str, Entry]) -> dict[str, tuple[int, bytes]]:
    # Folders that nobody named; an entry that leads to others stays what it was named as.
    made = {
        name[:at]: (stat.S_IFDIR | 0o755, b"")
        for name in entries
        for at, character in enumerate(name)
        if character == "/"
    }
    for name, entry in entries.items():
        if isinstance(entry, File):
            made[name] = stat.S_IFREG | (0o755 if entry.executable else 0o644), entry.data
        elif isinstance(entry, Link):
            made[name] = stat.S_IFLNK | 0o777, entry.target.encode()
        else:
            made[name] = stat.S_IFDIR | 0o755, b""
    return made


@given(ENTRIES)
def test_what_is_put_in_is_read_back_by_the_format_s_description(
    entries: dict[str, Entry],
) -> None:
    assert read(archive(entries)) == expected(entries)


@given(ENTRIES, st.randoms())
def test_equal_entries_make_equal_bytes_in_any_order(
    entries: dict[str, Entry], random: Random
) -> None:
    names = list(entries)
    random.shuffle(names)
    assert archive({name: entries[name] for name in names}) == archive(entries)


@given(ENTRIES)
def test_a_folder_comes_before_what_is_in_it(entries: dict[str, Entry]) -> None:
    names = list(read(archive(entries)))
    for at, name in enumerate(names):
        parent = name.rpartition("/")[0]
        assert not parent or parent in names[:at]


@given(ENTRIES)
def test_the_size_is_a_multiple_of_a_block(entries: dict[str, Entry]) -> None:
    assert len(archive(entries)) % 512 == 0


@pytest.mark.parametrize("program", ["cpio", "busybox"])
def test_other_programs_unpack_it(tmp_path: Path, program: str) -> None:
    path = which(program)
    if path is None:
        pytest.skip(f"there is no {program}")
    command = [path, *(["cpio"] if program == "busybox" else []), "-id"]
    subprocess.run(command, input=archive(MIXED), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "init", os.X_OK)
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")
    assert (tmp_path / "bin/busybox").stat().st_size == 1004
    assert (tmp_path / "etc/a name").read_bytes() == b"x"
    assert not (tmp_path / "etc/a name").stat().st_mode & 0o111
    assert (tmp_path / "etc/é").read_bytes() == b""
    assert (tmp_path / "var/empty").is_dir()


@pytest.mark.parametrize("name", ["/init", "../init", "a/../../init", ".."])
def test_a_name_that_leads_out_of_the_root_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leads out of the archive's root"):
        archive({name: File(b"")})


@pytest.mark.parametrize("name", ["", ".", "./init", "a//b", "a/", "a\0b", "TRAILER!!!"])
def test_a_name_that_readers_take_for_another_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for an archive's entry"):
        archive({name: File(b"")})


def test_a_name_that_is_no_unicode_keeps_its_bytes() -> None:
    name = os.fsdecode(b"caf\xe9")
    assert b"caf\xe9\0" in archive({name: File(b"")})
