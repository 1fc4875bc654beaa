"""Whatever is wrong with what it was given, the command says so in one line and changes nothing."""

import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.stand_in import (
    BTF,
    KNOB,
    NOBODY,
    PACKAGE,
    UNFIXED,
    Ended,
    await_free,
    command,
    environment,
    fill,
    intel_host,
    need_free_machine,
    need_kvm,
    need_root,
    run_kvmtest,
    small_disk,
    snapshot,
    write,
)

import kvmtest.suite
from kvmtest.evidence import load
from kvmtest.host.changes.journal import RECORD, Journal
from kvmtest.host.changes.lock import LOCK
from kvmtest.host.tree import Tree

FIX = ["--only", "kernel.fix-present"]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """A stand-in host that must be in the end as it was in the beginning."""
    tree = intel_host(tmp_path / "host")
    before = snapshot(tree)
    yield tree
    await_free(tree)
    assert snapshot(tree) == before
    assert not tree.exists(RECORD)


def run_on(tree: Tree, *words: str | Path) -> Ended:
    return run_kvmtest("run", "--root", tree.root, *words)


# Words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--only", "vmx.entry.frsh"],
            "no property vmx.entry.frsh; did you mean vmx.entry.fresh?",
        ),
        (["--only", "qqqqqqqqqq"], "no property qqqqqqqqqq; see kvmtest list"),
        (["--require", "kernel.fix"], "no property kernel.fix; did you mean kernel.fix-present?"),
        (
            ["--require", "witness:klogs"],
            "--require witness:klogs: it takes leak, vmcs, runflags, btf, guest, hostmsr, klog",
        ),
        (
            ["--require", "colour:red"],
            "--require colour:red: it takes witness:NAME, feature:NAME, a property's id",
        ),
        (
            [*FIX, "--require", "any.soak"],
            "--require any.soak: no property that it concerns is chosen; choose one",
        ),
    ],
)
def test_a_name_that_is_none_is_refused(tree: Tree, words: list[str], said: str) -> None:
    ended = run_on(tree, *words)
    assert (ended.status, ended.out, ended.complaint) == (2, "", said)
    assert run_on(tree, "--bisect", *words).status == 125


def test_an_unknown_feature_is_refused_with_those_there_are(tree: Tree) -> None:
    ended = run_on(tree, "--require", "feature:smm")
    assert ended.status == 2
    assert "smi-source, vmcs-dump" in ended.complaint


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--only", "a\nb"],
        ["run", "--require", "\x1b[2J\r"],
        ["run", "--nonsense\nkvmtest: PASS"],
        ["run", "--root", "no\nfolder"],
        ["report", "no\tfile\n"],
        ["finding", "\x1b]0;title\x07"],
        ["no\ncommand"],
        ["lab", "run", "--kernel", "6\n1"],
        ["smi", "probe", "--source", "\u2028"],
    ],
    ids=repr,
)
def test_what_is_refused_is_named_in_one_line_without_what_a_terminal_obeys(
    words: list[str],
) -> None:
    ended = run_kvmtest(*words)
    assert ended.status in (2, 3)
    assert ended.out == ""
    *usage, said = ended.err.splitlines()
    assert all(line.startswith(("usage: kvmtest", " ")) for line in usage)
    assert said.startswith("kvmtest")
    assert said.isprintable()


@pytest.mark.parametrize(
    "words",
    [
        ["report", ""],
        ["replay", ""],
        ["compare", "x", ""],
        ["run", "-o", ""],
        ["run", "--root="],
        ["doctor", "--root", ""],
        ["report", "x", "--junit="],
        ["report", "x", "--html", ""],
    ],
    ids=" ".join,
)
def test_no_name_is_not_taken_for_this_folder(words: list[str]) -> None:
    ended = run_kvmtest(*words)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.endswith(": the name is empty\n")


def test_an_option_that_is_none_is_refused_and_named(tree: Tree) -> None:
    ended = run_on(tree, "--stricter")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.splitlines()[-1] == "kvmtest: error: unrecognized arguments: --stricter"


# Evidence


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_schema(path: Path) -> None:
    path.write_text(path.read_text().replace("kvmtest-evidence/1", "kvmtest-evidence/7"))


def spoilt(path: Path) -> None:
    path.write_text(path.read_text().replace('"verdict": "PASS"', '"verdict": "FINE"'))


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put something else in the file's place."""

    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


def link_to(target: str) -> Callable[[Path], object]:
    return instead(lambda path: path.symlink_to(target))


def enlarge(path: Path) -> None:
    os.truncate(path, 1 << 40)  # with a hole: it takes no space


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def with_seconds(number: str) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        text, count = re.subn(r'"seconds": [0-9.e-]+', f'"seconds": {number}', path.read_text())
        assert count
        path.write_text(text)

    return spoil


SPOILERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "not JSON, or cut short"),
    "empty": (lambda path: path.write_text(""), "not JSON, or cut short"),
    "other schema": (other_schema, "its schema is kvmtest-evidence/7; this kvmtest reads"),
    "spoilt": (spoilt, "$.results[0].verdict: must be one of"),
    "binary": (binary, "this is not text"),
    "gone": (Path.unlink, "No such file or directory; name an evidence.json"),
    # What has no end, or keeps a reader waiting.
    "endless device": (link_to("/dev/zero"), "this is a device, not a file; name an evidence.json"),
    "empty device": (link_to("/dev/null"), "this is a device, not a file"),
    "terminal": (link_to("/dev/ptmx"), "this is a device, not a file"),
    "endless file": (link_to("/proc/self/pagemap"), ""),
    "FIFO without writer": (instead(os.mkfifo), "this is a FIFO, not a file"),
    "socket": (instead(bound_socket), "this is a socket, not a file"),
    "folder": (instead(Path.mkdir), "No such file or directory"),
    "itself": (link_to("evidence.json"), "Too many levels of symbolic links"),
    "large": (enlarge, "this has more than 32 MiB; name an evidence.json"),
    "file of no size": (link_to("/proc/version"), "not JSON, or cut short"),
    # What a parser may choke on.
    "deep": (lambda path: path.write_text("[" * 1_000_000), "nested too deeply"),
    "deep in a result": (with_seconds("[" * 100_000), "nested too deeply"),
    "many digits": (with_seconds("9" * 100_000), "not JSON, or cut short"),
    "no float": (with_seconds("1e999"), "1e999 is not a JSON number"),
    "not a number": (with_seconds("NaN"), "NaN is not a JSON number"),
    "infinity": (with_seconds("-Infinity"), "-Infinity is not a JSON number"),
}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The evidence of a real run over a stand-in tree."""
    folder = tmp_path_factory.mktemp("evidence")
    run_on(intel_host(folder / "host"), *FIX, "-o", folder / "out")
    return (folder / "out" / "evidence.json").read_bytes()


@pytest.mark.parametrize("way", SPOILERS)
def test_evidence_that_is_none_is_refused(tmp_path: Path, evidence: bytes, way: str) -> None:
    spoil, said = SPOILERS[way]
    path = tmp_path / "evidence.json"
    path.write_bytes(evidence)
    assert load(path).results
    spoil(path)
    junit = tmp_path / "junit.xml"
    commands: list[list[str | Path]] = [
        ["report", path], ["report", tmp_path, "--ktap"], ["report", path, "--junit", junit],
        ["replay", path],
    ]  # fmt: skip
    for words in commands:
        if way == "folder" and tmp_path in words:
            continue
        ended = run_kvmtest(*words)
        assert (ended.status, ended.out) == (3, "")
        assert ended.complaint.startswith(str(path))
        assert said in ended.complaint
    assert {entry.name for entry in tmp_path.iterdir()} <= {"evidence.json"}


def test_a_report_that_can_not_be_written_is_told(tmp_path: Path, evidence: bytes) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(evidence)
    for place in (tmp_path / "nowhere" / "j.xml", path / "j.xml", tmp_path):
        ended = run_kvmtest("report", path, "--junit", place)
        assert ended.status == 3
        assert ended.complaint.startswith(f"can't write {place}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["evidence.json"]


def test_a_report_goes_into_what_is_no_file_and_leaves_it_there(
    tmp_path: Path, evidence: bytes
) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(evidence)
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to("real.xml")
    os.mkfifo(fifo)

    def written(place: str | Path) -> Ended:
        return run_kvmtest("report", path, "--junit", place)

    assert written(link).status == 0
    assert link.readlink() == Path("real.xml")
    junit = (tmp_path / "real.xml").read_text()
    assert junit.startswith("<?xml")
    assert written("/dev/stdout") == Ended(0, junit, "")
    assert written(fifo).complaint == (
        f"can't write {fifo}: No such device or address; name another file"
    )
    assert fifo.is_fifo()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert written(fifo).status == 0
    assert os.read(reader, 1 << 20).decode() == junit
    os.close(reader)
    # A node for a device that takes nothing.
    full = tmp_path / "full"
    try:
        os.mknod(full, stat.S_IFCHR | 0o600, Path("/dev/full").stat().st_rdev)
    except PermissionError:
        return
    assert (
        written(full).complaint == f"can't write {full}: No space left on device; name another file"
    )
    assert full.is_char_device()


# Machines


def test_a_machine_without_kvm_is_told_for_each_property(tree: Tree, tmp_path: Path) -> None:
    ended = run_on(tree, "-o", tmp_path / "out", "--only", "guest.rdmsr-hides")
    assert (ended.status, ended.err) == (4, "")
    (result,) = load(tmp_path / "out").results
    assert "/dev/kvm" in result.reason
    assert result.verdict == "SKIP"


def test_an_empty_machine_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = run_on(Tree(tmp_path / "empty"), "-o", tmp_path / "out")
    assert (ended.status, ended.err) == (4, "")
    assert {r.verdict for r in load(tmp_path / "out").results} == {"SKIP"}


# A user without rights, but for reading the interpreter and this package wherever they are.
READER = [
    "setpriv",
    *("--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
]


def test_kvm_without_permission_is_skipped_and_the_rest_decided(tmp_path: Path) -> None:
    need_kvm()
    need_root()
    if subprocess.run([*READER, "true"], capture_output=True).returncode:
        pytest.skip("needs setpriv(1) and CAP_DAC_READ_SEARCH")
    if Path("/dev/kvm").stat().st_mode & 0o006:
        pytest.skip("needs a /dev/kvm that is not everybody's")
    output = tmp_path / "out"
    output.mkdir()
    os.chown(output, NOBODY, NOBODY)
    need_free_machine()
    words = ["run", "--allow-other-vms", *FIX, "--only", "guest.rdmsr-hides", "-o", output]
    ended = run_kvmtest(*words, prefix=READER, cwd=Path("/"))
    assert ended.err == ""
    results = {r.id: r for r in load(output).results}
    skipped = results["guest.rdmsr-hides"]
    assert skipped.verdict == "SKIP"
    assert skipped.reason == (
        "no permission for /dev/kvm; run as root, or join the group that owns it"
    )
    by_fix = {"PASS": 0, "FAIL": 1}.get(results["kernel.fix-present"].verdict, 4)
    assert (ended.status, ended.err) == (by_fix, "")


def test_a_second_run_is_refused_and_told_whose_the_first_is(tree: Tree, tmp_path: Path) -> None:
    with Journal.open(tree):
        ended = run_on(tree, *FIX, "-o", tmp_path / "out")
        restored = run_kvmtest("restore", "--root", tree.root)
        assert run_on(tree, "--bisect", *FIX).status == 125
    for each in (ended, restored):
        assert (each.status, each.out) == (3, "")
        assert f"another kvmtest run holds {tree.path(LOCK)}: pid {os.getpid()} " in each.complaint
    assert not (tmp_path / "out").exists()
    assert run_on(tree, *FIX, "-o", tmp_path / "out").status == 0


def test_a_run_beside_another_s_vms_is_refused(tmp_path: Path) -> None:
    tree = intel_host(tmp_path / "host")
    write(tree, "/proc/4711/comm", "qemu-system-x86\n")
    write(tree, "/proc/4711/cmdline", "qemu-system-x86\0")
    tree.path("/proc/4711/fd").mkdir()
    tree.path("/proc/4711/fd/9").symlink_to("anon_inode:kvm-vm")
    ended = run_on(tree, *FIX)
    assert (ended.status, ended.out) == (3, "")
    assert ended.complaint == (
        "other VMs run here: qemu-system-x86 (pid 4711, 1 VMs, 0 vCPUs); "
        "stop them, or use --allow-other-vms"
    )
    assert run_on(tree, *FIX, "--allow-other-vms").status == 0


def test_a_damaged_record_of_a_dead_run_is_not_guessed_at(tmp_path: Path) -> None:
    tree = intel_host(tmp_path / "host")
    with Journal.open(tree) as journal:
        journal.write(KNOB, "0")
        record = tree.path(RECORD).read_bytes()
    damaged = b"x" + record[1:]
    write(tree, RECORD, damaged)
    for words in (["run", *FIX], ["restore"]):
        ended = run_kvmtest(*words, "--root", tree.root)
        assert (ended.status, ended.out) == (3, "")
        assert ended.complaint.startswith(f"{tree.path(RECORD)}: ")
    assert tree.path(RECORD).read_bytes() == damaged


def test_a_knob_that_can_not_be_written_is_an_error_and_not_a_crash(tree: Tree) -> None:
    tree.path("/sys/devices/cpu_core").mkdir()
    text = tree.path(KNOB).read_bytes()
    tree.path(KNOB).unlink()
    tree.path(KNOB).mkdir()
    ended = run_on(tree, "--only", "host.knob-effective")
    tree.path(KNOB).rmdir()
    tree.path(KNOB).write_bytes(text)
    assert (ended.status, ended.err) == (3, "")
    assert "can't" in ended.out


# Output folders


def test_a_folder_with_another_run_s_files_is_left_alone(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_on(tree, *FIX, "-o", output).status == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    ended = run_on(tree, *FIX, "-o", output)
    assert (ended.status, ended.out) == (2, "")
    assert ended.complaint == (
        f"-o {output}: it holds another run's files; choose a new folder, or empty this one"
    )
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_a_file_is_no_output_folder(tree: Tree, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("dear")
    ended = run_on(tree, *FIX, "-o", output)
    assert (ended.status, ended.out) == (2, "")
    assert ended.complaint == f"-o {output}: File exists; choose another folder"
    assert output.read_text() == "dear"


@pytest.mark.parametrize(("btf", "status"), [(None, 3), (UNFIXED, 1)], ids=["pass", "fail"])
def test_a_full_disk_costs_the_evidence_and_not_the_verdicts(
    tmp_path: Path, btf: bytes | None, status: int
) -> None:
    tree = intel_host(tmp_path / "host")
    if btf:
        write(tree, BTF, btf)
    disk = tmp_path / "disk"
    small_disk(disk)
    try:
        output = disk / "out"
        output.mkdir()
        fill(disk)
        ended = run_on(tree, *FIX, "-o", output)
        assert ended.status == status
        assert ended.complaint.startswith(f"can't write {output}/")
        assert "No space left on device; free some space or choose another -o DIR" in ended.err
        assert "kernel.fix-present" in ended.out
        # An empty file needs no space.
        assert {path.name for path in output.iterdir()} <= {"kernel.log"}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "words", [["list"], ["list", "--json"], ["doctor", "--json"], ["--help"], ["run", "-h"]]
)
def test_output_that_can_not_be_written_is_told(words: list[str], buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(*words), stdout=full, stderr=subprocess.PIPE, text=True,
            env=environment(PYTHONUNBUFFERED=buffered),
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


# The installation


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package below a folder of its own, its suite included."""
    packages = tmp_path / "packages"
    shutil.copytree(PACKAGE, packages / "kvmtest", ignore=shutil.ignore_patterns("__pycache__"))
    suite = Path(kvmtest.suite.__file__).parent
    shutil.copytree(suite, packages / "kvmtest" / "suite", dirs_exist_ok=True)
    return packages


def test_a_missing_guest_image_is_an_error_that_names_it(copy: Path, tmp_path: Path) -> None:
    need_kvm()
    image = copy / "kvmtest" / "guests" / "images" / "long.elf"
    image.unlink()
    env = environment(PYTHONPATH=str(copy))
    need_free_machine()
    words = ["run", "--allow-other-vms", "--only", "guest.rdmsr-hides"]
    ended = run_kvmtest(*words, "-o", tmp_path / "out", env=env, cwd=tmp_path)
    assert (ended.status, ended.err) == (3, "")
    (result,) = load(tmp_path / "out").results
    assert result.verdict == "ERROR"
    assert result.reason == (
        f"guest long: the image is missing at {image}; build it again (make, or pip install)"
    )
    assert ended.out.startswith("ERROR: 1 check broke on Linux ")
    assert "\nERROR guest.rdmsr-hides\n" in ended.out
    # Nor does a dry run look complete then.
    ended = run_kvmtest(*words, "--dry-run", env=env, cwd=tmp_path)
    assert ended.status == 3
    assert ended.complaint == f"guest.rdmsr-hides: {result.reason}"
