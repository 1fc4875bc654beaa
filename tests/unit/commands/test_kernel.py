"""kvmtest kernel inspect says which commits of the fix a kernel has."""

import json
from pathlib import Path

import pytest
from support.kernel_files import BANNER, RELEASE, bzimage, module, source_files, vmlinux, write_tree
from support.stand_in import BTF, FIXED, UNFIXED, intel_host, kvm_btf

from kvmtest.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("btf", "status", "said"),
    [
        (kvm_btf("vcpu_run", "HOST_OWNED_DEBUGCTL", KVM_RUN_LOAD_DEBUGCTL=4), 0, "present"),
        (UNFIXED, 1, "absent"),
        (kvm_btf("name"), 4, "unknown"),
        (b"[/] no [bold] BTF", 4, "unknown"),
    ],
)
def test_inspect_says_whether_the_fix_is_in_the_running_kernel(
    tmp_path: Path, capsys: Capture, btf: bytes, status: int, said: str
) -> None:
    intel_host(tmp_path, btf=btf)
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == status
    assert capsys.readouterr().out.startswith(f"{said}: ")


def test_inspect_without_btf_is_unknown(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path).path(BTF).unlink()
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == 4
    assert "unknown: " in capsys.readouterr().out


def kernel(root: Path, types: bytes = FIXED) -> Path:
    """A machine's root with one kernel."""
    image = bzimage(vmlinux(types=types), banner=BANNER)
    kvm = module("kvm", sections={".BTF": kvm_btf(over=types)})
    files = {f"boot/vmlinuz-{RELEASE}": image, f"lib/modules/{RELEASE}/kernel/kvm.ko": kvm}
    return write_tree(root, files)


def test_several_targets_are_shown_apart_and_the_worst_is_the_status(
    tmp_path: Path, capsys: Capture
) -> None:
    good, bad = kernel(tmp_path / "good"), kernel(tmp_path / "bad", UNFIXED)
    assert main(["kernel", "inspect", str(good)]) == 0
    capsys.readouterr()
    assert main(["kernel", "inspect", str(good), str(bad), str(tmp_path / "none")]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines() if RELEASE in line] == [
        "present",
        "absent",
    ]
    assert err.startswith(f"kvmtest: there is no {tmp_path}/none: name a package")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "status"), [(None, 2), (b"", 3), (b"\xed\xab\xee\xdb", 3)]
)  # fmt: skip
def test_what_can_not_be_read_is_one_line_and_a_status_of_its_own(
    tmp_path: Path, capsys: Capture, content: bytes | None, status: int
) -> None:
    target = tmp_path / "target"
    if content is not None:
        target.write_bytes(content)
    assert main(["kernel", "inspect", str(target)]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert str(target) in err


def test_json_is_one_document_whatever_the_targets(tmp_path: Path, capsys: Capture) -> None:
    source = write_tree(tmp_path / "linux", source_files())
    good = kernel(tmp_path / "good")
    main(["kernel", "inspect", "--json", str(good), str(source), str(tmp_path / "none")])
    found = json.loads(capsys.readouterr().out)
    assert [each["target"] for each in found["kernels"]] == [str(good), str(source)]
    assert [each["version"] for each in found["kernels"]] == ["6.12.7", "6.12.7"]
    assert "there is no" in found["errors"][0]


def test_a_root_goes_with_no_target(tmp_path: Path, capsys: Capture) -> None:
    assert main(["kernel", "inspect", "--root", str(tmp_path), "x"]) == 2
    assert "--root names the machine of the running kernel" in capsys.readouterr().err
