"""lab/image/userland.py: this host's Python runs from what is taken of it."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import which

import pytest

from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.image import userland
from kvmtest.lab.image.cpio import File, Link


@pytest.fixture(scope="module")
def sources() -> Mapping[str, Path]:
    try:
        return userland.sources()
    except EnvironmentUnfit as error:
        if "busybox" in str(error):
            pytest.skip(str(error))
        raise


def test_what_a_run_imports_is_there_and_what_is_large_is_not(sources: Mapping[str, Path]) -> None:
    names = set(sources)
    for wanted in ("/bin/busybox", "/bin/python3", "/site/rich/console.py"):
        assert wanted in names
    assert any(name.startswith("/site/_cffi_backend") for name in names)
    assert not [name for name in names if "/tkinter/" in name or "/site/kvmtest/" in name]
    assert all(path.is_file() for path in sources.values())


def test_the_objects_are_there_that_others_are_linked_to(sources: Mapping[str, Path]) -> None:
    assert any("libc.so" in name for name in sources)
    assert any("ld-linux" in name for name in sources)


def test_python_runs_kvmtest_s_libraries_from_the_entries_alone(
    sources: Mapping[str, Path], tmp_path: Path
) -> None:
    chroot = which("chroot")
    if os.geteuid() or not chroot:
        pytest.skip("needs chroot, as root")
    for name, entry in userland.entries(sources).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, File):
            path.write_bytes(entry.data)
            path.chmod(0o755 if entry.executable else 0o644)
        elif isinstance(entry, Link):
            path.symlink_to(entry.target)
    script = "import rich.console, psutil, _cffi_backend, fastjsonschema; print(psutil)"
    environment = {"PYTHONPATH": userland.SITE, "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/bin"}
    command = [chroot, str(tmp_path), "/bin/python3", "-v", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "/site/psutil/__init__.py" in done.stdout
    # Compiling takes a slow machine a minute.
    loaded = re.findall(r"# code object from '(.*)'", done.stderr)
    assert [name for name in loaded if name.startswith("/site/psutil/__pycache__/__init__")]
    assert [name for name in loaded if not name.endswith(".pyc")] == []


def test_bytecode_is_never_checked_against_its_source(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("value = 1\n")
    cached = importlib.util.cache_from_source(str(path)).lstrip("/")
    (made,) = (
        entry
        for name, entry in userland.entries({str(path): path}).items()
        if name == cached and isinstance(entry, File)
    )
    assert made.data[:4] == importlib.util.MAGIC_NUMBER
    assert made.data[4:8] == (1).to_bytes(4, "little")
    assert made.data[8:16] == importlib.util.source_hash(b"value = 1\n")


def test_stale_bytecode_of_the_host_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("value = 'old'\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(tmp_path)], check=True)
    path.write_text("value = 'a new one'\n")
    data = b"".join(
        e.data for e in userland.entries({"/m.py": path}).values() if isinstance(e, File)
    )
    assert data.count(b"a new one") == 2
    assert b"old" not in data


def test_a_source_of_another_python_goes_without_bytecode(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("print 'hello'\n")
    assert "m.py" in userland.entries({"/m.py": path})
    assert not [name for name in userland.entries({"/m.py": path}) if name.endswith(".pyc")]


def test_names_and_contents_make_the_digest(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_text("1")
    two.write_text("2")
    digests = {
        userland.digest(files)
        for files in ({}, {"/a": one}, {"/a": two}, {"/b": one}, {"/a": one, "/b": two})
    }
    assert len(digests) == 5
    assert userland.digest({"/a": one, "/b": two}) == userland.digest({"/b": two, "/a": one})


# What is missing


@pytest.mark.parametrize("content", [None, "#!/bin/sh\n", "dynamic"])
def test_without_a_static_busybox_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(userland.shutil, "which", lambda *_, **__: None)
    if content is not None:
        path = Path(sys.executable).resolve() if content == "dynamic" else tmp_path / "busybox"
        if content != "dynamic":
            path.write_text(content)
        monkeypatch.setattr(userland.shutil, "which", lambda *_, **__: str(path))
    with pytest.raises(
        EnvironmentUnfit, match=f"no static busybox .*; {install('busybox-static')}"
    ):
        userland.sources()


def test_a_shared_object_that_is_not_found_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ldd = tmp_path / "ldd"
    ldd.write_text("#!/bin/sh\nprintf '\\tlibgone.so.1 => not found\\n'\n")
    ldd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(EnvironmentUnfit, match=r"^libgone\.so\.1: this Python needs it; install"):
        userland.sources()
