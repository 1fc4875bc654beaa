"""The journal: kvmtest/host/changes/journal."""

import contextlib
import fcntl
import json
import os
import sys
import threading
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.host.changes.journal import (
    RECORD,
    UNDO_KINDS,
    Entry,
    Header,
    Journal,
    JournalError,
    Record,
    encode,
    kinds,
    parse,
    restore,
)
from kvmtest.host.changes.lock import LOCK, Lock, LockHeld, process_start
from kvmtest.host.tree import Tree

KNOB = "/sys/devices/cpu/freeze_on_smi"
PROBES = "/sys/kernel/tracing/kprobe_events"
INSTANCE = "/sys/kernel/tracing/instances/kvmtest"
UNRESTRICTED = "/sys/module/kvm_intel/parameters/unrestricted_guest"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name, text in {KNOB: "1\n", PROBES: "", UNRESTRICTED: "Y\n"}.items():
        path = tmp_path / name[1:]
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / INSTANCE[1:]).parent.mkdir()
    return Tree(tmp_path)


def program(tree: Tree, name: str, script: str) -> None:
    path = tree.path(f"/usr/sbin/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def died(tree: Tree, *entries: Entry, boot_id: str | None = None, pid: int = 4711) -> None:
    """Leave the record of a dead run."""
    path = tree.path(RECORD)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = Header(pid, 1, boot_id, "2026-01-02T03:04:05Z", "kvmtest run")
    path.write_bytes(encode(header) + b"".join(encode(entry) for entry in entries))


def wrote(sequence: int, name: str, old: str) -> Entry:
    return Entry(sequence, f"write to {name}", "write", {"path": name, "text": old})


LOAD = f"echo ${{2#*=}} > {UNRESTRICTED[1:]}"


def reloads(tree: Tree, *, unload: str = ":", load: str = LOAD) -> None:
    """Have module kvm_intel loaded in ``tree``, and programs that ``unload`` and ``load`` it."""
    initstate = "sys/module/kvm_intel/initstate"
    tree.path(f"/{initstate}").write_text("live\n")
    program(tree, "rmmod", f"{unload}\nrm {initstate}")
    program(tree, "modprobe", f"{load}\necho live > {initstate}")


def reload(journal: Journal) -> None:
    journal.reload_module("kvm_intel", {"unrestricted_guest": "Y"}, {"unrestricted_guest": "N"})


RELOADED = "reload module kvm_intel with unrestricted_guest=N (was unrestricted_guest=Y)"


# The record

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.just(
    "\udc80"
)
numbers = st.integers(0, 2**63)
values = {
    "path": texts,
    "text": texts,
    "module": texts,
    "parameters": st.lists(texts),
    "data": st.binary(min_size=1).map(bytes.hex),
    "tasks": st.lists(st.tuples(numbers, numbers, texts).map(list)),
    "files": st.lists(st.tuples(texts, texts).map(list)),
}
undos = st.sampled_from(sorted(UNDO_KINDS)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.fixed_dictionaries({name: values[name] for name in UNDO_KINDS[kind][1]})
    )
)
headers = st.builds(Header, numbers, st.none() | numbers, st.none() | texts, texts, texts)


@st.composite
def records(draw: st.DrawFn) -> Record:
    drawn = draw(st.lists(st.tuples(texts, undos), max_size=5))
    entries = [
        Entry(sequence, sentence, kind, arguments)
        for sequence, (sentence, (kind, arguments)) in enumerate(drawn, 1)
    ]
    return Record(draw(headers), tuple(entries))


def encoded(record: Record) -> bytes:
    assert record.header
    return encode(record.header) + b"".join(encode(entry) for entry in record.entries)


@given(records())
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert parse(encoded(record)) == record


@given(records())
def test_every_truncation_yields_a_prefix_of_the_entries(record: Record) -> None:
    data = encoded(record)
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data) + 1):
        read = parse(data[:size])
        whole = sum(end <= size for end in ends)
        assert read.header == (record.header if whole else None)
        assert read.entries == record.entries[: max(0, whole - 1)]


@given(records(), st.binary())
def test_a_torn_end_of_any_bytes_is_ignored(record: Record, torn: bytes) -> None:
    assert parse(encoded(record) + torn) == record


@given(records(), st.data())
def test_a_damaged_byte_is_never_taken_for_an_entry(record: Record, data: st.DataObject) -> None:
    whole = bytearray(encoded(record))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        read = parse(bytes(whole))
    except JournalError:
        return
    assert read.entries == record.entries[: len(read.entries)]
    assert read.header in (record.header, None)


def complaint(data: bytes) -> str:
    """Return what is said of ``data``; anything but a JournalError passes through."""
    try:
        parse(data)
    except JournalError as error:
        return str(error)
    return ""


@given(st.binary() | st.lists(st.binary()).map(b"\n".join))
def test_garbage_raises_nothing_but_a_journal_error(garbage: bytes) -> None:
    assert "\n" not in complaint(garbage)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
shapes = st.fixed_dictionaries(
    {
        "sequence": json_values,
        "sentence": json_values,
        "kind": st.sampled_from(sorted(UNDO_KINDS)) | json_values,
        "arguments": st.fixed_dictionaries({}, optional=dict.fromkeys(values, json_values))
        | json_values,
    }
)


@given(headers, st.lists(json_values | shapes, min_size=1, max_size=3))
def test_sound_lines_of_another_program_raise_nothing_but_a_journal_error(
    header: Header, lines: list[object]
) -> None:
    bodies = [json.dumps(line).encode() for line in lines]
    data = encode(header) + b"".join(b"%08x %s\n" % (zlib.crc32(b), b) for b in bodies)
    for text in (data, data.partition(b"\n")[2]):
        assert "\n" not in complaint(text)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"9" * 5000, b"\xff", b"", b"null"])
def test_a_sound_line_that_is_no_object_is_a_journal_error(body: bytes) -> None:
    with pytest.raises(JournalError):
        parse(b"%08x %s\n" % (zlib.crc32(body), body))


def test_a_damaged_line_before_a_sound_one_is_named() -> None:
    header = encode(Header(1, 1, None, "", ""))
    with pytest.raises(JournalError, match="line 2 is damaged"):
        parse(header + b"x" + encode(wrote(1, KNOB, "1")) + encode(wrote(2, KNOB, "0")))


def test_another_format_is_refused() -> None:
    with pytest.raises(JournalError, match="format 2"):
        parse(encode(Header(1, 1, None, "", "", format=2)))


def test_lines_out_of_order_are_refused() -> None:
    header, line = Header(1, 1, None, "", ""), encode(wrote(2, KNOB, "1"))
    with pytest.raises(JournalError, match="out of order"):
        parse(encode(header) + line + line)


# Changes and their undo


def test_each_kind_of_change_is_made_and_undone(tree: Tree) -> None:
    reloads(tree)
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        journal.append(PROBES, "p:kvmtest/probe vmx_vcpu_run", undo="-:kvmtest/probe")
        journal.make_directory(INSTANCE)
        reload(journal)
        assert tree.read(KNOB) == "0"
        assert tree.read(PROBES) == "p:kvmtest/probe vmx_vcpu_run"
        assert tree.path(INSTANCE).is_dir()
        assert tree.read(UNRESTRICTED) == "N"
        entries = parse(tree.path(RECORD).read_bytes()).entries
        assert [entry.sentence for entry in entries] == [c.sentence for c in journal.changes]
        assert [entry.kind for entry in entries] == ["write", "append", "rmdir", "reload"]

        assert journal.close() == []
        assert tree.path(KNOB).read_text() == "1\n"
        assert tree.path(PROBES).read_text().splitlines()[-1] == "-:kvmtest/probe"
        assert not tree.path(INSTANCE).exists()
        assert tree.read(UNRESTRICTED) == "Y"
        assert not tree.exists(RECORD)
        assert all(change.undone and change.error is None for change in journal.changes)


VARIABLE = "/sys/firmware/efi/efivars/Lang-8be4df61-93ca-11d2-aa0d-00e098032b8c"
NEW = "/sys/firmware/efi/efivars/kvmtest-1"


@pytest.fixture
def efivars(tree: Tree) -> Tree:
    tree.path(VARIABLE).parent.mkdir(parents=True)
    tree.path(VARIABLE).write_bytes(b"\7\0\0\0eng\n")
    return tree


def test_a_file_that_was_made_is_there_in_the_block_alone(efivars: Tree) -> None:
    with Journal.open(efivars) as journal:
        with journal.made(NEW) as fd:
            os.write(fd, b"new")
            assert efivars.path(NEW).read_bytes() == b"new"
            (entry,) = parse(efivars.path(RECORD).read_bytes()).entries
            assert (entry.kind, entry.arguments) == ("unlink", {"path": NEW})
        assert not efivars.exists(NEW)
        assert journal.close() == []
    assert [(change.sentence, change.undone) for change in journal.changes] == [
        (f"make the file {NEW}", True)
    ]


def test_a_file_of_somebody_elses_is_neither_made_nor_removed(efivars: Tree) -> None:
    with Journal.open(efivars) as journal:
        with pytest.raises(JournalError, match="is there already"), journal.made(VARIABLE):
            pass
        assert journal.close() == []
    assert efivars.path(VARIABLE).read_bytes() == b"\7\0\0\0eng\n"


def flag(path: Path, flags: int) -> bool:
    """Set the flags of a file's inode; tell whether its file system has them."""
    with path.open("rb") as file, contextlib.suppress(OSError):
        fcntl.ioctl(file, kinds._FS_IOC_SETFLAGS, flags.to_bytes(8, "little"))
        return True
    return False


def test_a_file_that_a_killed_run_made_is_removed_also_where_it_is_immutable(
    efivars: Tree,
) -> None:
    efivars.path(NEW).write_bytes(b"")
    flagged = flag(efivars.path(NEW), kinds._FS_IMMUTABLE_FL)
    try:
        died(efivars, Entry(1, f"make the file {NEW}", "unlink", {"path": NEW}))
        assert restore(efivars).failed == []
        assert not efivars.exists(NEW)
    finally:
        if efivars.exists(NEW):
            flag(efivars.path(NEW), 0)
    if not flagged:
        pytest.skip("this file system has no immutable files: only an ordinary one was removed")


def test_in_a_dry_run_no_file_is_made(efivars: Tree) -> None:
    with Journal.open(efivars, dry_run=True) as journal:
        with journal.made(NEW) as fd:
            os.write(fd, b"new")
        assert not efivars.exists(NEW)
    assert [change.sentence for change in journal.changes] == [f"make the file {NEW}"]


def test_a_variable_gets_the_bytes_back_that_it_had(efivars: Tree) -> None:
    with Journal.open(efivars) as journal:
        assert journal.keep_variable(VARIABLE) == b"\7\0\0\0eng\n"
        efivars.path(VARIABLE).write_bytes(b"\7\0\0\0fra\n")
    assert efivars.path(VARIABLE).read_bytes() == b"\7\0\0\0eng\n"
    assert journal.changes[0].undone


def test_a_variable_that_has_its_bytes_is_not_written(
    efivars: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.open(efivars) as journal:
        journal.keep_variable(VARIABLE)
        times = efivars.path(VARIABLE).stat().st_mtime_ns
    assert efivars.path(VARIABLE).stat().st_mtime_ns == times


def test_a_variable_outlasts_a_restart_of_the_machine_and_so_does_its_undo(
    efivars: Tree,
) -> None:
    path = efivars.path(BOOT_ID)
    path.parent.mkdir(parents=True)
    path.write_text("after\n")
    kept = {"path": VARIABLE, "data": b"\7\0\0\0deu\n".hex()}
    died(
        efivars,
        Entry(1, "write Lang", "variable", kept),
        wrote(2, KNOB, "0"),
        boot_id="before",
    )
    restored = restore(efivars)
    assert restored.rebooted
    assert restored.undone == ["write Lang"]
    assert efivars.path(VARIABLE).read_bytes() == b"\7\0\0\0deu\n"
    assert efivars.read(KNOB) == "1"


@pytest.mark.parametrize("data", ["0", "xy", "", 7, None])
def test_bytes_that_are_none_are_no_record_of_ours(data: object) -> None:
    entry = Entry(1, "write", "variable", {"path": VARIABLE, "data": data})
    with pytest.raises(JournalError, match="arguments of variable"):
        parse(encode(Header(1, 1, None, "", "")) + encode(entry))


def test_the_entry_is_on_disk_before_its_change(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        record = tree.read_bytes(RECORD) or b""
        seen.append((tree.read(KNOB), len(parse(record).entries)))

    with Journal.open(tree) as journal:
        monkeypatch.setattr(os, "fsync", fsync)
        journal.write(KNOB, "0")
        monkeypatch.undo()
    assert seen[-1] == ("1", 1)


def test_undo_goes_in_reverse(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        for number in "123":
            journal.append(PROBES, number, undo=f"-{number}")
    assert (tree.read(PROBES) or "").split() == ["1", "2", "3", "-3", "-2", "-1"]


def test_a_record_is_a_header_and_sentences_that_people_can_read(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        header = parse(tree.path(RECORD).read_bytes()).header
        assert header
        assert (header.pid, header.start) == (os.getpid(), process_start(os.getpid()))
        assert Path(sys.orig_argv[0]).name in header.command
        assert b"write 0 to /sys/devices/cpu/freeze_on_smi (was 1)" in (
            tree.path(RECORD).read_bytes()
        )


def test_a_journal_without_a_change_leaves_no_record(tree: Tree) -> None:
    with Journal.open(tree):
        pass
    assert not tree.exists("/var")


def test_only_the_first_write_of_a_file_is_recorded_and_the_first_text_comes_back(
    tree: Tree,
) -> None:
    with Journal.open(tree) as journal:
        for value in "0101010":
            journal.write(KNOB, value)
        assert len(parse(tree.path(RECORD).read_bytes()).entries) == 1
        assert len(journal.changes) == 1
        assert (journal.changes[0].new, journal.changes[0].writes) == ("0", 7)
    assert tree.read(KNOB) == "1"


def test_a_file_that_says_the_value_already_is_left_alone(tree: Tree) -> None:
    tree.path(KNOB).write_text(" 1 \n")
    with Journal.open(tree) as journal:
        journal.write(KNOB, "1\n")
        assert tree.path(KNOB).read_text() == " 1 \n"
        journal.write(KNOB, "1", force=True)
        assert tree.path(KNOB).read_text() == "1\n"
        assert journal.changes == []
    assert not tree.exists("/var")


def test_a_given_undo_is_written_instead_of_the_old_text(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0", undo="7")
    assert tree.path(KNOB).read_text() == "7\n"


def test_bytes_that_are_no_text_come_back(tree: Tree) -> None:
    tree.path(KNOB).write_bytes(b"\xff\xfe\n")
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
    assert tree.path(KNOB).read_bytes() == b"\xff\xfe\n"


def test_many_lines_come_back_and_their_sentence_is_one_short_line(tree: Tree) -> None:
    text = "".join(f"p:old/probe{n} function\n" for n in range(9))
    tree.path(PROBES).write_text(text)
    with Journal.open(tree) as journal:
        journal.write(PROBES, "")
        (change,) = journal.changes
        assert change.sentence.startswith(f"write empty to {PROBES} (was p:old/probe0 ")
        assert "\n" not in change.sentence
        assert len(change.sentence) < 200
    assert tree.path(PROBES).read_text() == text


def test_changes_are_made_by_many_threads_at_once(tree: Tree) -> None:
    names = [f"/sys/module/kvm/parameters/p{n}" for n in range(8)]
    tree.path(names[0]).parent.mkdir(parents=True)
    for name in names:
        tree.path(name).write_text("old\n")
    with Journal.open(tree) as journal:
        threads = [
            threading.Thread(target=journal.write, args=(name, f"new {n}"))
            for name in names
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all((tree.read(name) or "").startswith("new") for name in names)
        assert sorted(change.sequence for change in journal.changes) == list(range(1, 9))
        assert [change.writes for change in journal.changes] == [4] * 8
    assert all(tree.read(name) == "old" for name in names)


# What the host refuses


def test_what_can_not_be_opened_is_refused_before_it_is_recorded(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        for change in (
            lambda: journal.write("/sys/no/such", "1"),
            lambda: journal.append("/sys/no/such", "p", undo="-"),
        ):
            with pytest.raises(JournalError, match=r"can't write .*/sys/no/such: No such file"):
                change()
        assert not tree.exists(RECORD)


def test_a_directory_that_is_there_is_refused(tree: Tree) -> None:
    tree.path(INSTANCE).mkdir()
    with Journal.open(tree) as journal, pytest.raises(JournalError, match="is there already"):
        journal.make_directory(INSTANCE)
    assert tree.path(INSTANCE).is_dir()


def test_a_command_that_fails_is_told_with_its_last_word_and_still_undone(tree: Tree) -> None:
    words = "echo first >&2; echo last word >&2"
    reloads(tree, load=f"{LOAD}; case $2 in *=N) {words}; exit 3;; esac")
    with Journal.open(tree) as journal:
        with pytest.raises(JournalError, match="refused: exit status 3: last word"):
            reload(journal)
        assert tree.read(UNRESTRICTED) == "N"
    assert tree.read(UNRESTRICTED) == "Y"
    assert journal.changes[0].error == "exit status 3: last word"


def test_a_stand_in_runs_no_program_of_the_live_machine(tree: Tree) -> None:
    for missing in ("rmmod", "modprobe"):
        reloads(tree)
        tree.path(f"/usr/sbin/{missing}").unlink()
        with Journal.open(tree) as journal:
            with pytest.raises(JournalError, match=rf"there is no program {missing} in"):
                reload(journal)
            assert not tree.exists(RECORD)


# Failures to undo


def test_a_failed_undo_is_told_and_kept_and_the_others_still_happen(tree: Tree) -> None:
    reloads(tree)
    journal = Journal.open(tree)
    journal.write(KNOB, "0")
    reload(journal)
    journal.make_directory(INSTANCE)
    reloads(tree, unload="echo no room >&2; exit 1")
    line = f"{RELOADED}: not undone: exit status 1: no room"
    assert journal.close() == [line]
    assert journal.close() == [line]
    assert (tree.read(KNOB), tree.path(INSTANCE).exists()) == ("1", False)
    assert [change.undone for change in journal.changes] == [True, False, True]
    assert journal.changes[1].error == "exit status 1: no room"

    again = restore(tree)
    assert (again.undone, again.failed, again.from_pid) == ([], [line], os.getpid())
    with pytest.raises(JournalError, match=r"can't be undone: reload .* undo them by hand"):
        Journal.open(tree)

    reloads(tree)
    assert restore(tree).undone == [RELOADED]
    assert tree.read(UNRESTRICTED) == "Y"
    assert not tree.exists(RECORD)


def test_leaving_the_context_tells_failures(tree: Tree) -> None:
    def change(journal: Journal) -> None:
        reloads(tree)
        reload(journal)
        tree.path("/usr/sbin/modprobe").unlink()

    def fail(journal: Journal) -> None:
        change(journal)
        raise ZeroDivisionError

    with pytest.raises(JournalError, match="not undone: there is no program modprobe"):  # noqa: SIM117
        with Journal.open(tree) as journal:
            change(journal)
    tree.path(RECORD).unlink()
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: SIM117
        with Journal.open(tree) as journal:
            fail(journal)
    assert ["not undone" in note for note in caught.value.__notes__] == [True]


def test_a_target_that_is_gone_counts_as_undone(tree: Tree) -> None:
    journal = Journal.open(tree)
    journal.make_directory(INSTANCE)
    journal.write(KNOB, "0")
    tree.path(INSTANCE).rmdir()
    tree.path(KNOB).unlink()
    assert journal.close() == []
    assert not tree.path(KNOB).exists()


def test_an_interrupted_close_is_done_by_the_next(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    journal = Journal.open(tree)
    journal.write(KNOB, "0")
    journal.make_directory(INSTANCE)
    monkeypatch.setattr(kinds, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.close()
    monkeypatch.undo()
    assert tree.read(KNOB) == "0"
    assert journal.close() == []
    assert tree.read(KNOB) == "1"
    Journal.open(tree).close()


@pytest.mark.parametrize("step", ["_create", "_append"])
def test_an_interruption_while_recording_leaves_a_sound_record(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    journal = Journal.open(tree)
    if step == "_append":
        journal.write(KNOB, "0")
    real_write = os.write

    def torn(fd: int, data: bytes) -> int:
        real_write(fd, data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", torn)
    with pytest.raises(KeyboardInterrupt):
        journal.make_directory(INSTANCE)
    monkeypatch.undo()
    assert not tree.exists(INSTANCE)
    journal.write(UNRESTRICTED, "N")
    record = parse(tree.path(RECORD).read_bytes())
    assert record.header
    assert record.entries[-1].arguments == {"path": UNRESTRICTED, "text": "Y"}
    assert journal.close() == []
    assert (tree.read(KNOB), tree.read(UNRESTRICTED)) == ("1", "Y")


def test_a_change_that_can_not_be_recorded_is_not_made(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tree)
    journal.write(UNRESTRICTED, "N")
    monkeypatch.setattr(os, "write", lambda _fd, data: len(data) - 1)
    with pytest.raises(JournalError, match="No space left on device"):
        journal.write(KNOB, "0")
    monkeypatch.undo()
    assert tree.read(KNOB) == "1"
    assert journal.close() == []
    assert tree.read(UNRESTRICTED) == "Y"


def test_a_closed_journal_changes_nothing(tree: Tree) -> None:
    journal = Journal.open(tree)
    assert journal.close() == []
    with pytest.raises(JournalError, match="closed"):
        journal.write(KNOB, "0")
    assert tree.read(KNOB) == "1"


# What a dead run left


def test_restore_undoes_what_a_dead_run_left(tree: Tree) -> None:
    died(tree, wrote(1, KNOB, "4"), wrote(2, KNOB, "3"))
    restored = restore(tree)
    assert restored.undone == [f"write to {KNOB}"] * 2
    assert (restored.failed, restored.from_pid, restored.rebooted) == ([], 4711, False)
    assert tree.read(KNOB) == "4"
    assert not tree.exists(RECORD)


def test_restore_of_nothing_does_nothing(tree: Tree) -> None:
    restored = restore(tree)
    assert (restored.undone, restored.failed, restored.from_pid) == ([], [], None)
    assert not tree.exists("/var")


def test_open_undoes_what_a_dead_run_left_and_remembers_it(tree: Tree) -> None:
    died(tree, wrote(1, KNOB, "4"))
    with Journal.open(tree) as journal:
        assert journal.recovered == [f"write to {KNOB}"]
        assert tree.read(KNOB) == "4"
        journal.write(KNOB, "0")
    assert tree.read(KNOB) == "4"


def test_after_a_reboot_the_record_is_removed_and_nothing_is_written(tree: Tree) -> None:
    tree.path(BOOT_ID).parent.mkdir(parents=True)
    tree.path(BOOT_ID).write_text("this boot\n")
    died(tree, wrote(1, KNOB, "4"), boot_id="another boot")
    restored = restore(tree)
    assert restored.rebooted
    assert restored.undone == []
    assert tree.read(KNOB) == "1"
    assert not tree.exists(RECORD)

    died(tree, wrote(1, KNOB, "4"), boot_id="another boot")
    with Journal.open(tree) as journal:
        assert journal.recovered == [
            "the machine was restarted since run 4711: its changes are gone by themselves"
        ]


def test_within_one_boot_the_record_is_undone(tree: Tree) -> None:
    tree.path(BOOT_ID).parent.mkdir(parents=True)
    tree.path(BOOT_ID).write_text("this boot\n")
    died(tree, wrote(1, KNOB, "4"), boot_id="this boot")
    assert not restore(tree).rebooted
    assert tree.read(KNOB) == "4"


def test_the_live_boot_id_is_recorded(tree: Tree) -> None:
    tree.path(BOOT_ID).parent.mkdir(parents=True)
    tree.path(BOOT_ID).write_text("this boot\n")
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        header = parse(tree.path(RECORD).read_bytes()).header
        assert header
        assert header.boot_id == "this boot"


def test_a_torn_last_line_was_no_change(tree: Tree) -> None:
    died(tree, wrote(1, KNOB, "4"), wrote(2, UNRESTRICTED, "X"))
    path = tree.path(RECORD)
    path.write_bytes(path.read_bytes()[:-1])
    assert restore(tree).undone == [f"write to {KNOB}"]
    assert tree.read(UNRESTRICTED) == "Y"


def test_a_record_that_can_not_be_read_stops_everything_and_stays(tree: Tree) -> None:
    died(tree, wrote(1, KNOB, "4"))
    path = tree.path(RECORD)
    path.write_bytes(b"x" + path.read_bytes())
    for open_it in (restore, Journal.open):
        with pytest.raises(JournalError, match=r"line 1 is damaged; undo by hand .* remove it"):
            open_it(tree)
    assert path.exists()
    assert tree.read(KNOB) == "1"
    path.unlink()
    Journal.open(tree).close()


def test_restore_leaves_a_live_runs_changes_alone(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        with pytest.raises(LockHeld, match=f"pid {os.getpid()} "):
            restore(tree)
        assert tree.read(KNOB) == "0"
        with pytest.raises(LockHeld):
            Journal.open(tree)
    Lock.take(tree).release()


# Dry run


def test_a_dry_run_plans_and_changes_nothing(tree: Tree) -> None:
    before = sorted(tree.root.rglob("*"))
    with Journal.open(tree, dry_run=True) as journal:
        journal.write(KNOB, "1")
        journal.write(KNOB, "0")
        journal.write(KNOB, "1", force=True)
        journal.append(PROBES, "p:kvmtest/probe f", undo="-:kvmtest/probe")
        journal.make_directory(INSTANCE)
        reload(journal)
    assert [change.sentence for change in journal.changes] == [
        f"write 0 to {KNOB} (was 1)",
        f"append p:kvmtest/probe f to {PROBES}",
        f"make the directory {INSTANCE}",
        RELOADED,
    ]
    assert not any(change.undone for change in journal.changes)
    assert sorted(tree.root.rglob("*")) == before
    assert tree.path(KNOB).read_text() == "1\n"


def test_a_dry_run_needs_no_lock(tree: Tree) -> None:
    lock = Lock.take(tree)
    with Journal.open(tree, dry_run=True) as journal:
        journal.write(KNOB, "0")
    lock.release()
    assert tree.path(LOCK).exists()


def test_changes_go_into_evidence_as_json(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
    assert json.loads(json.dumps([asdict(change) for change in journal.changes])) == [
        {
            "sequence": 1,
            "sentence": f"write 0 to {KNOB} (was 1)",
            "path": KNOB,
            "old": "1",
            "new": "0",
            "writes": 1,
            "undone": True,
            "error": None,
        }
    ]


# Scopes


def test_a_scope_undoes_what_was_changed_in_it_and_leaves_the_rest(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        with journal.scope():
            journal.append(PROBES, "p:kvmtest/x f", undo="-:kvmtest/x")
            journal.make_directory(INSTANCE)
            journal.write(UNRESTRICTED, "N")
        assert tree.read(UNRESTRICTED) == "Y"
        assert not tree.exists(INSTANCE)
        assert tree.read(PROBES) == "p:kvmtest/x f\n-:kvmtest/x"
        assert tree.read(KNOB) == "0"
        assert [change.undone for change in journal.changes] == [False, True, True, True]
        assert [e.sequence for e in parse(tree.path(RECORD).read_bytes()).entries] == [1]
    assert tree.read(KNOB) == "1"
    assert [change.undone for change in journal.changes] == [True] * 4


def test_a_scope_leaves_no_record_where_nothing_else_was_changed(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        for _ in range(2):
            with journal.scope():
                journal.write(KNOB, "0")
                assert tree.exists(RECORD)
            assert not tree.exists(RECORD)
        assert [(c.sequence, c.undone) for c in journal.changes] == [(1, True), (2, True)]


def test_what_is_kept_outlives_the_scope_and_is_undone_in_the_end(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        with journal.scope():
            journal.write(KNOB, "0")
            with journal.kept():
                journal.append(PROBES, "p:kvmtest/x f", undo="-:kvmtest/x")
                journal.write(KNOB, "1")
            journal.write(UNRESTRICTED, "N")
        assert tree.read(UNRESTRICTED) == "Y"
        assert tree.read(PROBES) == "p:kvmtest/x f"
        assert [change.undone for change in journal.changes] == [True, False, False, True]
        assert [e.sequence for e in parse(tree.path(RECORD).read_bytes()).entries] == [2, 3]
        with journal.scope():
            journal.write(UNRESTRICTED, "N")
        assert [e.sequence for e in parse(tree.path(RECORD).read_bytes()).entries] == [2, 3]
    assert tree.read(PROBES) == "p:kvmtest/x f\n-:kvmtest/x"
    assert all(change.undone for change in journal.changes)
    assert not tree.exists(RECORD)


def test_what_is_kept_is_recorded_once_whatever_the_scopes(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        for value in ("0", "1", "0"):
            with journal.scope(), journal.kept():
                journal.write(KNOB, value)
        assert tree.read(KNOB) == "0"
        assert [(c.old, c.new, c.writes) for c in journal.changes] == [("1", "0", 3)]
        with journal.scope():
            journal.write(KNOB, "1")
        assert tree.read(KNOB) == "0"
        assert [change.undone for change in journal.changes] == [False, True]
    assert tree.read(KNOB) == "1"
    assert all(change.undone for change in journal.changes)


def test_what_can_not_be_undone_stays_in_order_beside_what_is_kept(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        with journal.scope():
            journal.make_directory(INSTANCE)
            with journal.kept():
                journal.write(KNOB, "0")
            tree.path(f"{INSTANCE}/in-use").write_text("")
        assert [e.sequence for e in parse(tree.path(RECORD).read_bytes()).entries] == [1, 2]
        tree.path(f"{INSTANCE}/in-use").unlink()
    assert not tree.exists(INSTANCE)
    assert tree.read(KNOB) == "1"


def test_a_scope_puts_back_what_it_found_not_what_the_run_found(tree: Tree) -> None:
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        with journal.scope():
            journal.write(KNOB, "1")
            journal.write(KNOB, "0")
            journal.write(KNOB, "1")
        assert tree.read(KNOB) == "0"
        journal.write(KNOB, "1")
        assert [(c.old, c.writes) for c in journal.changes] == [("1", 2), ("0", 3)]
    assert tree.read(KNOB) == "1"


def test_a_scope_in_a_scope_ends_alone(tree: Tree) -> None:
    with Journal.open(tree) as journal, journal.scope():
        journal.write(KNOB, "0")
        with journal.scope():
            journal.write(UNRESTRICTED, "N")
        assert (tree.read(UNRESTRICTED), tree.read(KNOB)) == ("Y", "0")


def test_an_error_in_a_scope_comes_out_with_everything_undone(tree: Tree) -> None:
    with Journal.open(tree) as journal:

        def broken() -> None:
            with journal.scope():
                journal.write(KNOB, "0")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            broken()
        assert tree.read(KNOB) == "1"


def test_what_a_scope_can_not_undo_is_tried_again_at_the_end(tree: Tree) -> None:
    journal = Journal.open(tree)
    with journal.scope():
        journal.make_directory(INSTANCE)
        held = tree.path(f"{INSTANCE}/held")
        held.write_text("")
        journal.write(KNOB, "0")
    assert tree.read(KNOB) == "1"
    assert [e.kind for e in parse(tree.path(RECORD).read_bytes()).entries] == ["rmdir"]
    with journal.scope():
        journal.write(UNRESTRICTED, "N")
    assert [e.kind for e in parse(tree.path(RECORD).read_bytes()).entries] == ["rmdir"]
    assert "not empty" in (journal.changes[0].error or "")
    held.unlink()
    assert journal.close() == []
    assert not tree.exists(INSTANCE)
    assert all(change.undone for change in journal.changes)


def test_a_scope_that_is_interrupted_as_it_ends_is_undone_by_close(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    journal = Journal.open(tree)
    journal.write(UNRESTRICTED, "N")

    def change(patch: pytest.MonkeyPatch) -> None:
        with journal.scope():
            journal.write(KNOB, "0")
            patch.setattr(
                sys.modules["kvmtest.host.changes.journal.restore"], "settle", interrupted
            )

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        change(patch)
    journal.append(PROBES, "p:x f", undo="-:x")
    assert [e.sequence for e in parse(tree.path(RECORD).read_bytes()).entries] == [1, 2, 3]
    assert journal.close() == []
    assert (tree.read(KNOB), tree.read(UNRESTRICTED)) == ("1", "Y")


@pytest.mark.parametrize("torn", [b"", b"0123"])
def test_a_torn_end_is_cut_off_when_the_record_is_taken_up_again(tree: Tree, torn: bytes) -> None:
    journal = Journal.open(tree)
    journal.write(UNRESTRICTED, "N")
    with journal.scope():
        journal.write(KNOB, "0")
    with tree.path(RECORD).open("ab") as file:
        file.write(torn)
    journal.write(KNOB, "0")
    assert [e.sequence for e in parse(tree.path(RECORD).read_bytes()).entries] == [1, 3]
    assert journal.close() == []


def test_a_dry_run_lists_a_place_once_however_many_scopes_write_it(tree: Tree) -> None:
    journal = Journal.open(tree, dry_run=True)
    assert journal.dry_run
    for _ in range(3):
        with journal.scope():
            journal.write(KNOB, "0")
    assert len(journal.changes) == 1
    assert not journal.changes[0].undone
