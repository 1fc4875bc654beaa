"""kernels/inspection.py: each way to look at a kernel that its parts allow, and why others fail."""

import sys

import pytest
from support.kernel_files import elf, module, source_files
from support.kvm_types import KvmTypes, fixed, vmlinux
from support.stand_in import FIXED, UNFIXED, kvm_btf

from kvmtest.kernels.inspection import inspected, offsets_of
from kvmtest.kernels.parts import KernelParts
from kvmtest.kernels.series import FIX, Evidence, Finding, State, finding_of

KVM, INTEL, IMAGE = module("kvm"), module("kvm_intel"), elf({".text": b"x"})


def parts(**values: object) -> KernelParts:
    return KernelParts("name", "origin", **values)  # type: ignore[arg-type]


def fix(found: tuple[Finding, ...]) -> Finding:
    return finding_of(FIX, found)


@pytest.mark.parametrize(("types", "state"), [(FIXED, State.PRESENT), (UNFIXED, State.ABSENT)])
def test_types_of_a_built_in_kvm_are_the_image_s(types: bytes, state: State) -> None:
    found = fix(inspected(parts(btf={"vmlinux": types}, builtin=frozenset({"kvm"}))))
    assert (found.state, found.evidence) == (state, (Evidence.TYPES,))


def test_a_module_s_own_types_count_and_not_the_image_s() -> None:
    own = kvm_btf("vcpu_run", over=FIXED)
    found = fix(inspected(parts(btf={"vmlinux": FIXED, "kvm": own}, code={"kvm": KVM})))
    assert found.state is State.ABSENT


def test_a_module_without_types_does_not_have_the_image_s() -> None:
    found = fix(inspected(parts(btf={"vmlinux": FIXED}, code={"kvm": KVM})))
    assert found.state is State.UNKNOWN


def test_an_image_whose_kvm_is_elsewhere_says_nothing() -> None:
    headers = kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", kvm=False)
    found = fix(inspected(parts(btf={"vmlinux": headers}, code={"vmlinux": IMAGE})))
    assert (found.state, found.evidence) == (State.UNKNOWN, ())


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"code": {"kvm": KVM}}, "its modules have no types"),
        ({"btf": {"kvm": FIXED}, "code": {"kvm": KVM}}, "put vmlinuz beside the module"),
        ({"code": {"kvm_intel": INTEL}}, "kvm.ko is not here"),
        ({"btf": {"vmlinux": b"no BTF"}}, "BTF"),
    ],
)
def test_what_can_not_be_read_is_unknown_and_says_why(values: dict[str, object], why: str) -> None:
    found = fix(inspected(parts(**values)))
    assert found.state is State.UNKNOWN
    assert why in found.observation


def test_without_the_disassembler_types_still_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "capstone", None)
    types = {"vmlinux": FIXED, "kvm": kvm_btf(over=FIXED)}
    found = fix(inspected(parts(btf=types, code={"kvm": KVM, "kvm_intel": INTEL})))
    assert (found.state, found.evidence) == (State.PRESENT, (Evidence.TYPES,))


def test_source_is_looked_at_beside_what_was_built_of_it() -> None:
    texts = {name: data.decode() for name, data in source_files().items()}
    alone = inspected(parts(source=texts.get))
    assert fix(alone).evidence == (Evidence.SOURCE,)
    both = fix(inspected(parts(source=texts.get, btf={"vmlinux": FIXED})))
    assert (both.state, "although" in both.observation) == (State.ABSENT, True)


def with_vcpu(has_host_debugctl: bool) -> bytes:
    types: KvmTypes = vmlinux()
    if has_host_debugctl:
        return fixed(types).bytes()
    types.record("kvm_vcpu", ("arch", types.record("kvm_vcpu_arch", ("dr6", 1, 0)), 0))
    return types.bytes()


def test_modules_without_types_are_read_by_those_of_an_image_before_the_fix_alone() -> None:
    code = {"kvm": KVM, "kvm_intel": INTEL}
    before = parts(btf={"vmlinux": with_vcpu(False)}, code=code)
    since = parts(btf={"vmlinux": with_vcpu(True)}, code=code)
    assert offsets_of(before) is not None
    assert offsets_of(since) is None
    assert offsets_of(parts(btf={"vmlinux": vmlinux().bytes()}, code=code)) is None
    assert offsets_of(parts(btf={"vmlinux": with_vcpu(False), "kvm": FIXED}, code=code)) is None
