"""kvmtest kernel inspect says whether the fix is in the kernel."""

from pathlib import Path

import pytest
from support.stand_in import BTF, UNFIXED, intel_host, kvm_btf

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
def test_inspect_says_whether_the_fix_is_there(
    tmp_path: Path, capsys: Capture, btf: bytes, status: int, said: str
) -> None:
    intel_host(tmp_path, btf=btf)
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == status
    out = capsys.readouterr().out
    assert any(line.startswith(f"{said}: ") for line in out.splitlines())


def test_inspect_without_btf_is_unknown(tmp_path: Path, capsys: Capture) -> None:
    intel_host(tmp_path).path(BTF).unlink()
    assert main(["kernel", "inspect", "--root", str(tmp_path)]) == 4
    assert "unknown: " in capsys.readouterr().out
