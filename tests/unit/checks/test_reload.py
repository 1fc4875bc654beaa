"""The module is reloaded for a property that needs it, with its other parameters, and put back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stand_in import intel_host, write

import kvmtest.session as session_module
from kvmtest.checks import Context
from kvmtest.host.tree import Tree
from kvmtest.judge import Absence, Reading, Verdict, claim, control
from kvmtest.properties import Property
from kvmtest.run_options import RunOptions
from kvmtest.session import Session

PARAMETERS = "/sys/module/kvm_intel/parameters"
EMULATING = Property("vmx.test", "c", (), ("kvm-intel", "no-unrestricted-guest"), ("btf",), "s")

# Where they are started is the tree's root. A module that is loaded has the parameters it is given,
# and the kernel's defaults for others.
RMMOD = """#!/bin/sh
echo "rmmod $*" >> calls
[ -e held ] && { echo "rmmod: ERROR: Module kvm_intel is in use" >&2; exit 1; }
rm sys/module/$1/initstate
"""
MODPROBE = """#!/bin/sh
echo "modprobe $*" >> calls
[ -e sys/module/$1/initstate ] && exit 0
echo live > sys/module/$1/initstate
echo Y > sys/module/$1/parameters/unrestricted_guest
echo N > sys/module/$1/parameters/nested
module=$1
shift
for setting; do
	value=${setting#*=}
	[ "$value" = 0 ] && value=N
	echo $value > sys/module/$module/parameters/${setting%%=*}
done
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = intel_host(tmp_path)
    for name, script in {"rmmod": RMMOD, "modprobe": MODPROBE}.items():
        write(tree, f"/usr/sbin/{name}", script).chmod(0o755)
    write(tree, f"{PARAMETERS}/vmentry_l1d_flush", "not required")
    write(tree, f"{PARAMETERS}/ple_gap", "128")
    return tree


def parameters(tree: Tree) -> dict[str, str | None]:
    return {p.name: tree.read(f"{PARAMETERS}/{p.name}") for p in tree.glob(f"{PARAMETERS}/*")}


def emulating(context: Context) -> Iterator[Reading | Absence]:
    """A check that sees what the machine says of the module now."""
    module = context.machine.kvm_module
    off = module.enabled("unrestricted_guest") is False  # type: ignore[union-attr]
    yield control("btf", "nested stays on", module.enabled("nested"), True, "x")  # type: ignore[arg-type, union-attr]
    yield claim("btf", "unrestricted guest is off", off, True)


@pytest.fixture
def session(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setattr(session_module, "check_of", lambda prop: emulating)
    made = Session(RunOptions(root=tree.root, reload_modules=True))
    yield made
    made.end()


def test_a_property_gets_the_module_as_it_needs_it_and_the_host_gets_it_back(
    tree: Tree, session: Session
) -> None:
    before = parameters(tree)
    result = session.decide(EMULATING)
    assert result.verdict is Verdict.PASS, result.reason
    assert parameters(tree) == before
    settings = "dump_invalid_vmcs=N nested=Y ple_gap=128 unrestricted_guest"
    assert (tree.read("/calls") or "").splitlines() == [
        "rmmod kvm_intel",
        f"modprobe kvm_intel {settings}=0",
        "rmmod kvm_intel",
        f"modprobe kvm_intel {settings}=Y",
    ]
    (change,) = session.begin().journal.changes
    assert change.undone
    assert change.sentence == (
        "reload module kvm_intel with unrestricted_guest=0 (was unrestricted_guest=Y)"
    )
    module = session.machine.kvm_module
    assert module.enabled("unrestricted_guest") is True  # type: ignore[union-attr]


def test_without_the_flag_it_is_skipped_and_the_flag_is_the_remedy(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "check_of", lambda prop: emulating)
    session = Session(RunOptions(root=tree.root))
    result = session.decide(EMULATING)
    session.end()
    assert result.verdict is Verdict.SKIP
    (missing,) = result.missing
    assert "--reload-modules" in missing.remedy
    assert not tree.exists("/calls")


def test_a_module_that_fits_is_left_alone(tree: Tree, session: Session) -> None:
    write(tree, f"{PARAMETERS}/unrestricted_guest", "N")
    assert session.decide(EMULATING).verdict is Verdict.PASS
    assert not tree.exists("/calls")


def test_a_property_that_lacks_something_else_reloads_nothing(tree: Tree, session: Session) -> None:
    needs = (*EMULATING.needs, "tdx")
    result = session.decide(Property("vmx.test", "c", (), needs, ("btf",), "s"))
    assert result.verdict is Verdict.SKIP
    assert len(result.missing) == 2
    assert not tree.exists("/calls")


def test_a_module_that_is_built_in_can_not_be_reloaded(tree: Tree, session: Session) -> None:
    tree.path("/sys/module/kvm_intel/initstate").unlink()
    write(tree, "/dev/kvm", "")
    result = session.decide(EMULATING)
    assert result.verdict is Verdict.SKIP
    (missing,) = result.missing
    assert "built into the kernel" in missing.what
    assert missing.remedy == "boot with kvm_intel.unrestricted_guest=0"


def test_a_module_that_others_use_is_not_reloaded(tree: Tree, session: Session) -> None:
    session.begin()
    tree.path("/proc/77/fd").mkdir(parents=True)
    tree.path("/proc/77/fd/3").symlink_to("/dev/kvm")
    write(tree, "/proc/77/comm", "qemu\n")
    result = session.decide(EMULATING)
    assert result.verdict is Verdict.SKIP
    assert "others use KVM: qemu (pid 77" in result.reason
    assert not tree.exists("/calls")


def test_a_module_that_does_not_go_is_a_reason_and_stays_as_it_was(
    tree: Tree, session: Session
) -> None:
    before = parameters(tree)
    write(tree, "/held", "")
    result = session.decide(EMULATING)
    assert result.verdict is Verdict.SKIP
    assert "Module kvm_intel is in use" in result.reason
    record = session.end()
    assert parameters(tree) == before
    assert record.undo_failures == []


def test_a_host_without_rmmod_is_told(tree: Tree, session: Session) -> None:
    tree.path("/usr/sbin/rmmod").unlink()
    result = session.decide(EMULATING)
    assert result.verdict is Verdict.SKIP
    assert "there is no program rmmod" in result.reason


def test_a_dry_run_lists_the_reload(tree: Tree) -> None:
    session = Session(RunOptions(root=tree.root, reload_modules=True, dry_run=True))
    assert session.decide(EMULATING).verdict is Verdict.SKIP
    assert [c.sentence.split(" (")[0] for c in session.end().changes] == [
        "reload module kvm_intel with unrestricted_guest=0"
    ]
    assert not tree.exists("/calls")
