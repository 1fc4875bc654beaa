"""kvmtest/distribution.py: packages and files in the words of each distribution."""

import platform
from pathlib import Path

import pytest
from support import os_releases
from support.os_releases import FAMILIES

from kvmtest import distribution as subject
from kvmtest.distribution import family_of, install, path_of, paths_of


def fields(os_release: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return what Python reads in an os-release file."""
    path = folder / "os-release"
    path.write_text(os_release)
    monkeypatch.setattr(platform, "_os_release_candidates", (str(path),))
    monkeypatch.setattr(platform, "_os_release_cache", None)
    return platform.freedesktop_os_release()


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_own_family", subject._own_family.__wrapped__)


@pytest.mark.parametrize("os_release", FAMILIES, ids=os_releases.name_of)
def test_a_distribution_belongs_to_its_family(
    os_release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert family_of(fields(os_release, tmp_path, monkeypatch)) == FAMILIES[os_release]


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        (os_releases.UBUNTU, "apt-get install --no-install-recommends ovmf gcc g++"),
        (os_releases.ROCKY, "dnf install edk2-ovmf gcc gcc-c++"),
        (os_releases.ARCH, "pacman -S edk2-ovmf gcc"),
        (os_releases.LEAP, "zypper install qemu-ovmf-x86_64 gcc gcc-c++"),
        (os_releases.ALPINE, "install ovmf gcc g++ (Debian's names)"),
    ],
)
def test_packages_have_this_distributions_names(
    os_release: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields(os_release, tmp_path, monkeypatch)
    assert install("ovmf", "gcc", "g++") == command


def test_a_package_of_two_things_is_named_once_and_one_that_is_none_never() -> None:
    assert install("gcc", "g++", family="arch") == "pacman -S gcc"
    assert install("bochsbios", "make", family="fedora") == "dnf install make"


def test_without_an_os_release_packages_have_debians_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "_os_release_candidates", ("/nowhere",))
    monkeypatch.setattr(platform, "_os_release_cache", None)
    assert install("gcc") == "install gcc (Debian's names)"


def test_a_file_is_where_one_distribution_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {family: tmp_path / family for family in ("debian", "fedora", "arch", "suse")}
    table = subject._table() | {"loader": {family: str(path) for family, path in files.items()}}
    monkeypatch.setattr(subject, "_table", lambda: table)
    fields(os_releases.ROCKY, tmp_path, monkeypatch)
    assert paths_of("loader") == list(files.values())
    assert path_of("loader") == files["fedora"]
    files["suse"].touch()
    assert path_of("loader") == files["suse"]
    files["suse"].unlink()
    fields(os_releases.ALPINE, tmp_path, monkeypatch)
    assert path_of("loader") == files["debian"]


def test_files_of_the_table_are_absolute_and_packages_are_words() -> None:
    for name, row in subject._table().items():
        cells = list(row.values())
        if cells[0].startswith("/"):
            assert all(cell.startswith("/") for cell in cells), name
        elif name not in ("family", "ids", "install"):
            assert all(len(cell.split()) == 1 for cell in cells), name
            assert row["debian"] == name
