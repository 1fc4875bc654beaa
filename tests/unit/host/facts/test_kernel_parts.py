"""host/facts/kernel_parts.py: what of the running kernel can be examined, without root."""

import lzma
from pathlib import Path

import pytest
from support.kernel_files import module
from support.stand_in import FIXED, UNFIXED, kvm_btf, stand_in

from kvmtest.host.facts.kernel_parts import running_parts
from kvmtest.host.tree import Tree
from kvmtest.kernels.parts import KernelParts
from kvmtest.missing import Missing

RELEASE = "6.12.7+test-amd64"
FOLDER = f"/lib/modules/{RELEASE}"
FILE = f"{FOLDER}/kernel/arch/x86/kvm/kvm.ko.xz"
LOADED, FILED = (kvm_btf(*ops, over=UNFIXED) for ops in (("vcpu_run", "HOST_OWNED_DEBUGCTL"),
                                                        ("vcpu_run", "filed")))  # fmt: skip
KERNEL = {
    "/proc/version": f"Linux version {RELEASE} (a) (b) #1 SMP Debian 6.12.7-1 (2026-01-02)",
    "/proc/sys/kernel/osrelease": RELEASE,
    "/sys/kernel/btf/vmlinux": UNFIXED,
    f"{FOLDER}/modules.dep": "kernel/arch/x86/kvm/kvm.ko.xz:\n",
}


def kvm_file(build: bytes = b"one", **sections: bytes) -> bytes:
    sections = {".BTF": FILED, ".note.gnu.build-id": build, **sections}
    return lzma.compress(module("kvm", release=RELEASE, sections=sections))


def running(root: Path, **files: str | bytes) -> KernelParts:
    parts = running_parts(stand_in(root, {**KERNEL, **files}))
    assert isinstance(parts, KernelParts)
    return parts


def loaded(build: bytes = b"one") -> dict[str, str | bytes]:
    return {
        "/sys/module/kvm/initstate": "live",
        "/sys/module/kvm/notes/.note.gnu.build-id": build,
        "/sys/kernel/btf/kvm": LOADED,
    }


def test_a_loaded_module_has_its_types_and_the_code_of_its_file(tmp_path: Path) -> None:
    parts = running(tmp_path, **loaded(), **{FILE: kvm_file()})
    assert (parts.release, parts.version, parts.lacks) == (RELEASE, (6, 12, 7), ())
    assert parts.btf["kvm"] == LOADED
    assert set(parts.code) == {"kvm"}


def test_only_a_module_that_is_not_loaded_has_its_types_over_the_base_in_its_file(
    tmp_path: Path,
) -> None:
    file = kvm_file(**{".BTF.base": FIXED})
    parts = running(tmp_path / "loaded", **loaded(), **{FILE: file})
    assert (parts.btf["kvm"], dict(parts.btf_bases)) == (LOADED, {})
    assert running(tmp_path / "file", **{FILE: file}).btf_bases == {"kvm": FIXED}


@pytest.mark.parametrize("build", [b"two", b""])
def test_a_file_of_another_build_is_not_what_runs(tmp_path: Path, build: bytes) -> None:
    parts = running(tmp_path, **loaded(), **{FILE: kvm_file(build)})
    assert (parts.btf["kvm"], dict(parts.code)) == (LOADED, {})
    assert parts.lacks == ("module kvm is loaded from another build than its file in /lib/modules",)


def test_a_module_that_is_not_loaded_is_examined_by_its_file(tmp_path: Path) -> None:
    parts = running(tmp_path, **{FILE: kvm_file()})
    assert (parts.btf["kvm"], set(parts.code), parts.lacks) == (FILED, {"kvm"}, ())
    types = parts.types("kvm")
    assert types
    assert types.structs("kvm_x86_ops")[0].has("filed")


@pytest.mark.parametrize("has_lists", [True, False])
def test_kvm_that_is_built_in_is_in_the_image(tmp_path: Path, has_lists: bool) -> None:
    files = {
        "/sys/module/kvm/parameters/x": "1",
        f"{FOLDER}/modules.builtin": "kernel/arch/x86/kvm/kvm.ko\n",
    }
    parts = running(tmp_path, **(files if has_lists else dict(list(files.items())[:1])))
    assert (parts.builtin, parts.lacks, set(parts.btf)) == ({"kvm"}, (), {"vmlinux"})


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    tree = stand_in(tmp_path, KERNEL)
    tree.path("/sys/kernel/btf/vmlinux").unlink()
    parts = running_parts(tree)
    assert isinstance(parts, KernelParts)
    assert parts.lacks == (
        "the kernel shows no types: /sys/kernel/btf/vmlinux can't be read",
        "module kvm is neither loaded nor installed: modprobe kvm_intel",
    )


def test_a_damaged_file_costs_only_itself(tmp_path: Path) -> None:
    parts = running(tmp_path, **loaded(), **{FILE: b"no module"})
    assert parts.btf["kvm"] == LOADED
    assert "can't be examined" in parts.lacks[0]


def test_a_tree_without_proc_has_no_running_kernel(tmp_path: Path) -> None:
    assert isinstance(running_parts(Tree(tmp_path)), Missing)
