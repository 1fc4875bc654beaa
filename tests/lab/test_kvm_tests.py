"""The tests of guests and their KVM pass on kvm_intel, whatever CPU and KVM this machine has."""

import importlib.util
import os
import re
from pathlib import Path

import hypothesis
import pytest
from support.lab_job import run_script_inside

from kvmtest.lab.image import payload
from kvmtest.lab.target import LabTarget

pytestmark = pytest.mark.skipif(
    os.environ.get("KVMTEST_LAB_TESTS") != "all",
    reason="takes two minutes: KVMTEST_LAB_TESTS=all",
)

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).with_name("kvm_tests_inside.py")

#: What depends on the CPU or on its KVM.
TESTS = ("commands", "counted_exits", "cpuid", "guests_long", "guests_real", "msrs", "run_loop",
    "soak", "spinning", "stats", "vcpu", "vm", "watchers")  # fmt: skip
#: These take the machine long, and show nothing of the CPU.
LEFT_OUT = ("carries_64_bits", "needs_no_look", "cut_off_anywhere", "damaged_image")
#: The modules of pytest and of hypothesis, as far as these tests need them.
LIBRARIES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "hypothesis",
    "_hypothesis_globals", "py", "sortedcontainers")  # fmt: skip


def below(folder: Path, name: str) -> dict[str, bytes]:
    """Return the files of a folder, by their names below ``name``."""
    files = [path for path in folder.rglob("*") if path.is_file() and "pyc" not in path.suffix]
    return {f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in files}


def libraries() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        path = Path(spec.origin)
        if spec.submodule_search_locations:
            found |= below(path.parent, f"libraries/{name}")
        else:
            found[f"libraries/{path.name}"] = path.read_bytes()
    return found


def shared() -> dict[str, bytes]:
    """Return the shared objects of the host that hypothesis is linked to, and Python is not."""
    assert hypothesis.settings
    paths = re.findall(r"(/\S+/libgcc_s\.so\S*)$", Path("/proc/self/maps").read_text(), re.M)
    return {f"shared/{Path(path).name}": Path(path).read_bytes() for path in paths}


def test_they_pass_there(lab: LabTarget) -> None:
    names = ["conftest.py", *(f"test_{name}.py" for name in TESTS)]
    files = {f"tests/kvm/{name}": (ROOT / "tests/kvm" / name).read_bytes() for name in names}
    files["pyproject.toml"] = (ROOT / "pyproject.toml").read_bytes()
    files |= payload.with_bytecode(libraries()) | shared()
    files |= payload.with_bytecode(below(ROOT / "tests/support", "tests/support"))
    chosen = f"not ({' or '.join(LEFT_OUT)})"
    output = run_script_inside(lab, INSIDE, files=files, words=["-k", chosen, "tests/kvm"])
    said = output.files["pytest.txt"].decode()
    assert output.files["status"] == b"0", said
    assert int(re.findall(r"(\d+) passed", said)[-1]) > 200
