"""git bisect run, with kvmtest lab run --bisect, finds the commit that broke KVM.

Each commit of the repository holds modules of KVM, as a commit of the kernel has them after make.
"""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.kernel_files import write_tree
from support.module_history import commit, files_of, git
from support.stand_in import command, run_kvmtest

from kvmtest.evidence import load
from kvmtest.kernels.kernel import BootableKernel
from kvmtest.lab.mutants import find
from kvmtest.lab.target import LabTarget

GOOD, BAD, SKIPPED = 0, 1, 125

#: What a commit holds, from the first to the last, and what the lab says of it.
HISTORY = (
    ("fixed", GOOD),
    ("still fixed", GOOD),
    ("fixed once more", GOOD),
    ("no modules", SKIPPED),
    ("modules that do not load", SKIPPED),
    ("loads again", GOOD),
    ("fix reverted", BAD),
    ("still without the fix", BAD),
)

RUN = ("lab", "run", "--modules", "modules", "--only", "vmx.entry.toggled", "--bisect")
#: Judges the commit that is checked out, and notes the status beside its subject.
STEP = f"""\
{shlex.join(command(*RUN))} > ../output 2>&1
status=$?
echo "$(git log -1 --format=%s):$status" >> ../steps
exit $status
"""


@pytest.fixture(scope="module")
def modules(built: Callable[..., Path]) -> Mapping[str, Mapping[str, bytes]]:
    """The files of each kind of modules."""
    fixed, reverted = files_of(built()), files_of(built(find("fix-reverted").patch))
    # A symbol that nobody exports takes the place of one that kvm does.
    name, unknown = b"kvm_emulate_wrmsr", b"kvm_emulate_nomsr"
    assert name in fixed["kvm-intel.ko"]
    return {
        "fixed": fixed,
        "fix reverted": reverted,
        "no modules": {},
        "modules that do not load": {"kvm-intel.ko": fixed["kvm-intel.ko"].replace(name, unknown)},
    }


def test_the_commit_that_reverts_the_fix_is_found(
    lab: LabTarget, modules: Mapping[str, Mapping[str, bytes]], tmp_path: Path
) -> None:
    if not lab.machine.is_restored:
        pytest.skip("each step would boot: the distribution's emulator saves no machine")
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet")
    for subject, _ in HISTORY:
        again = modules["fixed"] if subject == "loads again" else None
        commit(repository, subject, modules.get(subject, again))
    (first,) = git(repository, "rev-list", "--max-parents=0", "HEAD").split()
    git(repository, "bisect", "start", "HEAD", first)

    told = git(repository, "bisect", "run", "sh", "-c", STEP)

    found = git(repository, "log", "-1", "--format=%s", "refs/bisect/bad").strip()
    assert found == "fix reverted"
    assert "is the first bad commit" in told
    steps = [line.rpartition(":") for line in (tmp_path / "steps").read_text().splitlines()]
    taken = {subject: int(status) for subject, _, status in steps}
    assert taken == {subject: status for subject, status in HISTORY if subject in taken}
    # Both kinds of commits that can't be judged were among them, and a good and a bad one.
    assert {"no modules", "modules that do not load", "loads again", "fix reverted"} <= set(taken)
    assert set(taken.values()) == {GOOD, BAD, SKIPPED}


def test_a_build_tree_is_booted_in_place(
    kernel: BootableKernel, lab: LabTarget, tmp_path: Path
) -> None:
    """Of the stock kernel's own files, so that its saved machine is taken."""
    tree = tmp_path / "linux"
    options = (Path(__file__).parents[2] / "docs/lab.config").read_text()
    files = {
        "arch/x86/boot/bzImage": kernel.image.read_bytes(),
        "include/config/kernel.release": f"{kernel.release}\n".encode(),
        "include/config/auto.conf": options.encode(),
    }
    modules = {f"{m.name}.ko": m.data for m in kernel.load_order(*kernel.needed)}
    write_tree(tree, {**files, **modules})
    words = ("lab", "run", "--kernel", ".", "--only", "kernel.fix-present", "--bisect")
    done = run_kvmtest(*words, "-o", tmp_path / "out", cwd=tree, timeout=1500)
    assert done.status == 0, done.err
    details = load(tmp_path / "out").machine.lab.details
    assert details.kernel == f"the build tree {tree}"
    assert details.image_digest == lab.machine.image_digest

    lacks = options.replace("CONFIG_DEVTMPFS=y\n", "")
    (tree / "include/config/auto.conf").write_text(lacks)
    done = run_kvmtest(*words, cwd=tree)
    assert done.status == 125
    assert "it is built without CONFIG_DEVTMPFS" in done.err
