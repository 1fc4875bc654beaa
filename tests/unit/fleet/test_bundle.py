"""fleet/bundle.py: one archive has all that a host's Python needs to run kvmtest."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

import kvmtest
from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.fleet.bundle import ASK, LIBRARIES, Bundle, HostPython, bundle


def asked(program: str) -> HostPython:
    done = subprocess.run([program, "-c", ASK], capture_output=True, text=True)
    return HostPython.of(done.stdout, "host")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def own(cache: Cache) -> Bundle:
    return bundle(asked(sys.executable), cache)


def run(made: Bundle, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Unpack a bundle, and run kvmtest from it alone: no package of this machine is seen."""
    with tarfile.open(made.path) as tar:
        tar.extractall(folder, filter="data")
    return subprocess.run(
        [sys.executable, "-S", "-m", "kvmtest", *words],
        env={"PYTHONPATH": str(folder / LIBRARIES), "PYTHONSAFEPATH": "1"},
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_kvmtest_runs_from_it_alone(own: Bundle, tmp_path: Path) -> None:
    done = run(
        own, tmp_path, "run", "--dry-run", "--only", "kernel.fix-present", "--allow-other-vms"
    )
    assert done.returncode in (0, 4)
    assert done.stdout
    assert done.stderr == ""
    assert run(own, tmp_path, "--version").stdout == f"kvmtest {kvmtest.__version__}\n"


def test_it_is_made_once_and_alike_wherever_it_is_made(
    own: Bundle, cache: Cache, tmp_path: Path
) -> None:
    python = asked(sys.executable)
    before = own.path.stat()
    assert bundle(python, cache) == own
    assert own.path.stat() == before
    assert bundle(python, Cache(tmp_path)).digest == own.digest


def test_it_has_files_alone_all_below_one_folder(own: Bundle) -> None:
    with tarfile.open(own.path) as tar:
        members = tar.getmembers()
    assert all(member.isfile() and member.name.startswith("lib/") for member in members)
    names = {member.name for member in members}
    assert {"lib/kvmtest/fleet/unit.py", "lib/kvmtest/guests/images/long.elf"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_another_python_gets_libraries_of_its_own(cache: Cache) -> None:
    minor = 13 if sys.version_info.minor != 13 else 12
    suffix = f".cpython-3{minor}-x86_64-linux-gnu.so"
    try:
        made = bundle(HostPython("python3", (3, minor), suffix, 36), cache)
    except EnvironmentUnfit as error:
        pytest.skip(str(error))
    with tarfile.open(made.path) as tar:
        names = {member.name for member in tar}
    assert {f"lib/_cffi_backend{suffix}", "lib/rich/console.py", "lib/kvmtest/cli.py"} <= names
    assert not [name for name in names if str(sysconfig.get_config_var("EXT_SUFFIX")) in name]


def test_what_can_t_be_fetched_is_told_in_one_line(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EnvironmentUnfit) as told:
        bundle(HostPython("python3", (3, 99), ".cpython-399.so", 36), cache)
    message = str(told.value)
    assert message.startswith("can't fetch libraries for a host's Python 3.99: ERROR: ")
    assert message.endswith(
        "give pip a way to PyPI, or its option find-links a folder with their wheels"
    )


def test_a_host_with_an_older_glibc_is_told_what_to_do(cache: Cache) -> None:
    own = asked(sys.executable)
    with pytest.raises(
        EnvironmentUnfit, match=r"was built for glibc 2\.\d+, and the host has 2\.4;"
    ):
        bundle(HostPython(own.program, own.version, own.suffix, 4), Cache(cache.root / "older"))


SILENT = "its Python says nothing of itself"
LIBC = ["glibc", "2.36"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", SILENT),
        ("[]", SILENT),
        ("[" * 100_000, SILENT),
        ("{}", SILENT),
        (json.dumps(["p", [3], ".so", LIBC, "x86_64"]), SILENT),
        (
            json.dumps(["p", [3, 11], ".so", ["glibc", "two"], "x86_64"]),
            SILENT,
        ),
        (
            json.dumps(["p", [3, 10], ".so", LIBC, "x86_64"]),
            r"its Python is 3\.10; install",
        ),
        (json.dumps(["p", [3, 11], ".so", LIBC, "aarch64"]), "its machine is aarch64"),
        (json.dumps(["p", [3, 11], ".so", ["", ""], "x86_64"]), "it has no glibc"),
    ],
)
def test_a_host_that_can_t_run_kvmtest_is_told(answer: str, message: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=f"^host: {message}"):
        HostPython.of(answer, "host")


def test_what_a_host_says_becomes_its_python() -> None:
    answer = json.dumps(
        ["/usr/bin/python3", [3, 13], ".cpython-313.so", ["glibc", "2.41"], "x86_64"]
    )
    expected = HostPython("/usr/bin/python3", (3, 13), ".cpython-313.so", 41)
    assert HostPython.of(answer, "host") == expected
