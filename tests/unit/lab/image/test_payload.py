"""kvmtest/lab/image/payload.py: a machine gets kvmtest whole, and each job its own randomness."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.lab.digest import of_files
from kvmtest.lab.image import payload


def unpack(files: dict[str, bytes], folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(payload.archive(files))) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(folder)


def test_the_package_runs_from_its_files_alone(tmp_path: Path) -> None:
    unpack(payload.package(), tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # In front of where the package is installed.
    where = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import kvmtest, kvmtest._native;"
    script = where + (
        "print(kvmtest.__file__);from kvmtest.cli import main; sys.exit(main(['list', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environment, check=True, text=True
    )
    first, rest = done.stdout.split("\n", 1)
    assert first == str(tmp_path / "kvmtest" / "__init__.py")
    assert len(json.loads(rest)) > 20


def test_every_module_inside_can_be_imported_there(tmp_path: Path) -> None:
    unpack(payload.package(), tmp_path)
    script = (
        f"import importlib, pkgutil, sys; sys.path.insert(0, {str(tmp_path)!r}); import kvmtest\n"
        f"assert kvmtest.__path__ == [{str(tmp_path / 'kvmtest')!r}], kvmtest.__path__\n"
        "for module in pkgutil.walk_packages(kvmtest.__path__, 'kvmtest.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_lab_kernels_files_and_compiled_python_stay_outside() -> None:
    names = payload.package()
    kernels = {name for name in names if name.startswith("kvmtest/kernels/")}
    inside = ("__init__", "banner", "btf", "configuration", "fix", "series")
    assert kernels == {f"kvmtest/kernels/{name}.py" for name in inside}
    assert "kvmtest/cli.py" in names
    assert "kvmtest/host/facts/lab.py" in names
    assert not [name for name in names if name.startswith(("kvmtest/suite", "kvmtest/plugin"))]
    assert not [name for name in names if "__pycache__" in name or name.startswith("kvmtest/lab/")]


def test_the_package_comes_compiled(tmp_path: Path) -> None:
    unpack(payload.with_bytecode(payload.package()), tmp_path)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import kvmtest.cli"
    command = [sys.executable, "-v", "-c", script]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stderr
    loaded = re.findall(rf"# code object from '?{re.escape(str(tmp_path))}(\S+?)'?\n", said)
    assert [name for name in loaded if name.startswith("/kvmtest/__pycache__/cli.")]
    assert [name for name in loaded if not name.endswith(".pyc")] == []


def test_what_is_no_python_goes_uncompiled() -> None:
    files = {"a.py": b"1", "b.py": b"this is a template", "c.txt": b"1"}
    added = payload.with_bytecode(files).keys() - files.keys()
    assert added == {importlib.util.cache_from_source("a.py")}


def test_the_package_fits_its_drive_many_times() -> None:
    assert sum(map(len, payload.package().values())) < 8 << 20


FILES = st.dictionaries(st.text("abc/é", min_size=1, max_size=5), st.binary(max_size=20))


@given(st.dictionaries(st.text("abcé", min_size=1, max_size=150), st.binary(max_size=2000)))
def test_an_archive_holds_the_files(files: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(payload.archive(files))) as tar:
        held = {member.name: tar.extractfile(member) for member in tar}
        assert {name: file.read() for name, file in held.items() if file} == files


@given(FILES)
def test_equal_files_make_equal_digests_and_archives(files: dict[str, bytes]) -> None:
    other = dict(reversed(files.items()))
    assert of_files(other) == of_files(files)
    assert payload.archive(other) == payload.archive(files)


@given(FILES, FILES)
def test_different_files_make_different_digests(a: dict[str, bytes], b: dict[str, bytes]) -> None:
    assert (of_files(a) == of_files(b)) == (a == b)


def test_a_job_says_what_to_run_when_it_is_and_what_is_random() -> None:
    first, second = (
        json.loads(payload.job(["run", "--quiet"], {"A": "b"}, [["rmmod", "kvm"]])["job.json"])
        for _ in range(2)
    )
    assert first["command"] == ["run", "--quiet"]
    assert first["environment"] == {"A": "b"}
    assert first["commands"] == [["rmmod", "kvm"]]
    assert first["time"] == pytest.approx(time.time(), abs=60)
    assert len(bytes.fromhex(first["entropy"])) == 64
    assert first["entropy"] != second["entropy"]
