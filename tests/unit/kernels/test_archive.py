"""kernels/archive.py: on a small archive with a key of its own, served on the loopback."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.file_server import FileServer, file_server
from support.kernel_files import RELEASE, deb, tree_files

pytest.importorskip("debian")
pytest.importorskip("pysequoia")

from support.debian_mirror import Key, Mirror, write_keyring

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import archive as subject
from kvmtest.kernels import signatures
from kvmtest.kernels.archive import Archive
from kvmtest.kernels.resolve import resolve

DAY = 24 * 3600
INDEX = "/debian/dists/sid/InRelease"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.delenv("http_proxy", raising=False)
    with file_server() as server:
        yield server


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keyring"
    monkeypatch.setattr(signatures, "INSTALLED", (path,))
    return path


@pytest.fixture
def mirror(
    tmp_path: Path, server: FileServer, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> Mirror:
    made = Mirror(server, Key())
    write_keyring(keyring, made.key)
    made.add(deb(tmp_path / "a.deb", tree_files()), f"linux-image-{RELEASE}", "6.12.7-1")
    monkeypatch.setattr(subject, "MIRROR", server.url())
    monkeypatch.setattr(subject, "SUITES", {"sid": "debian"})
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def told() -> list[str]:
    return []


def releases(cache: Cache, told: list[str], max_age: float = DAY) -> list[str]:
    return [offer.release for offer in Archive(cache, told.append, max_age=max_age).offers()]


def add_newer(mirror: Mirror, tmp_path: Path, version: str = "6.12.8") -> str:
    """Offer another kernel; return its release."""
    release = f"{version}-amd64"
    package = f"linux-image-{release}"
    mirror.add(deb(tmp_path / "b.deb", {}, package=package), package, f"{version}-1")
    return release


def test_a_kernel_is_found_downloaded_and_unpacked(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    kernel = resolve("6.12", None, cache, told.append)
    assert kernel.origin == f"Debian's 6.12.7-1 of {RELEASE} (sid)"
    assert [module.name for module in kernel.load_order("kvm_intel")] == [
        "irqbypass", "kvm", "kvm_intel"
    ]  # fmt: skip
    assert [line.split()[0] for line in told] == ["fetching", "downloading", "unpacking"]


def test_once_unpacked_it_is_neither_looked_for_nor_downloaded_again(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    first = resolve("6.12", None, cache, lambda line: None)
    mirror.server.files.clear()
    assert resolve("6.12.7", None, cache, told.append) == first
    assert told == []


def test_the_default_is_the_newest_6_12(mirror: Mirror, cache: Cache, tmp_path: Path) -> None:
    add_newer(mirror, tmp_path)
    add_newer(mirror, tmp_path, "6.18.1")
    assert Archive(cache, lambda line: None).find().release == "6.12.8-amd64"


def test_the_name_of_a_download_is_the_packages(
    mirror: Mirror, cache: Cache, tmp_path: Path
) -> None:
    release = add_newer(mirror, tmp_path, "6.12.9+deb13")
    archive, folder = Archive(cache, lambda line: None), tmp_path / "to"
    folder.mkdir()
    (path,) = archive.download(archive.find("6.12.9").packages, folder)
    assert path == folder / f"linux-image-{release}_6.12.9+deb13-1_amd64.deb"
    assert path.read_bytes() == (tmp_path / "b.deb").read_bytes()


def test_lists_of_today_are_not_fetched_again(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    assert releases(cache, []) == [RELEASE]
    mirror.server.asked.clear()
    assert releases(cache, told) == [RELEASE]
    assert (told, mirror.server.asked) == ([], [])


def test_of_older_lists_only_what_changed_is_fetched_again(
    mirror: Mirror, cache: Cache, tmp_path: Path, told: list[str]
) -> None:
    releases(cache, [])
    mirror.server.asked.clear()
    assert releases(cache, told, max_age=0) == [RELEASE]
    assert mirror.server.asked == [INDEX]
    newer = add_newer(mirror, tmp_path)
    assert releases(cache, told, max_age=0) == [RELEASE, newer]
    assert told == ["fetching the package lists of Debian's archive"] * 2


def test_a_list_that_was_kept_in_the_future_is_fetched_again(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    releases(cache, [])
    (kept,) = (cache.root / "archive").glob("*.json")
    os.utime(kept, (2**33, 2**33))
    assert releases(cache, told) == [RELEASE]
    assert len(told) == 1


def test_without_a_network_older_lists_serve_on_and_that_is_told(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    releases(cache, [])
    mirror.server.files.clear()
    assert releases(cache, told, max_age=0) == [RELEASE]
    assert told[1:] == [
        f"no new list of sid ({mirror.server.url(INDEX)}: 404 Not Found); "
        "going on with the old lists"
    ]


def test_without_a_network_and_lists_there_is_one_clear_line(
    mirror: Mirror, cache: Cache, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "MIRROR", "http://127.0.0.1:1")
    with pytest.raises(EnvironmentUnfit) as it:
        releases(cache, told)
    assert str(it.value) == (
        f"Debian's archive can't be used: http://127.0.0.1:1{INDEX}: Connection refused; check "
        "the network, or give a kernel's .deb"
    )


def test_a_suite_that_the_mirror_lost_is_told_and_the_others_serve(
    mirror: Mirror, cache: Cache, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = {"old": "debian", "older": "debian", "sid": "debian"}
    monkeypatch.setattr(subject, "SUITES", suites)
    assert releases(cache, told) == [RELEASE]
    gone = mirror.server.url("/debian/dists/old/InRelease")
    assert told[1:] == [f"no new list of old, older ({gone}: 404 Not Found); going on without them"]


@pytest.mark.parametrize("suffix", [".xz", ".gz", ""])
@pytest.mark.parametrize("by_hash", [True, False])
def test_lists_come_in_each_form_and_by_their_digest_where_that_is_offered(
    mirror: Mirror, cache: Cache, told: list[str], suffix: str, by_hash: bool
) -> None:
    mirror.server.files = {
        path: content for path, content in mirror.server.files.items() if "/pool/" in path
    }
    mirror.suffixes, mirror.by_hash = (suffix,), by_hash
    mirror.publish()
    assert releases(cache, told) == [RELEASE]
    assert ("/by-hash/SHA256/" in mirror.server.asked[1]) == by_hash


def test_a_mirror_that_has_no_lists_by_digest_although_its_index_says_so_will_do(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    mirror.server.files = {
        path: content for path, content in mirror.server.files.items() if "by-hash" not in path
    }
    assert releases(cache, told) == [RELEASE]


def test_lists_that_nobody_known_signed_are_refused(
    mirror: Mirror, cache: Cache, told: list[str], keyring: Path
) -> None:
    write_keyring(keyring, Key())
    with pytest.raises(EnvironmentUnfit, match=f"{INDEX}: not signed by a known key of Debian"):
        releases(cache, told)
    assert not list(cache.root.rglob("*.json"))


def test_lists_that_were_changed_after_signing_are_refused(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    files = mirror.server.files
    files[INDEX] = files[INDEX].replace(b"Packages.xz", b"Packages.XZ")
    with pytest.raises(EnvironmentUnfit, match="not signed by a known key"):
        releases(cache, told)


def test_a_list_that_is_not_the_signed_one_is_refused(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    for path, content in mirror.server.files.items():
        if "/binary-amd64/" in path:
            mirror.server.files[path] = content[:-1] + b"?"
    with pytest.raises(EnvironmentUnfit, match=r"Packages\.xz has another file, of SHA-256"):
        releases(cache, told)


def test_the_index_of_another_suite_is_refused(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    mirror.suite = "trixie"
    mirror.publish()
    mirror.server.files[INDEX] = mirror.server.files["/debian/dists/trixie/InRelease"]
    with pytest.raises(EnvironmentUnfit, match="the index of trixie or unstable, not of sid"):
        releases(cache, told)


def test_an_index_that_is_older_than_the_last_one_is_refused(
    mirror: Mirror, cache: Cache, tmp_path: Path, told: list[str]
) -> None:
    old = dict(mirror.server.files)
    mirror.date += timedelta(hours=1)
    newer = add_newer(mirror, tmp_path)
    assert releases(cache, []) == [RELEASE, newer]
    mirror.server.files = old
    assert releases(cache, told, max_age=0) == [RELEASE, newer]
    assert "before the" in told[1]
    assert told[1].endswith("try again later); going on with the old lists")


def test_an_index_that_has_expired_serves_and_that_is_told(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    mirror.date = datetime(2026, 1, 2, tzinfo=UTC)
    mirror.publish()
    assert releases(cache, told) == [RELEASE]
    assert told[1:] == [
        "the archive's list of sid was meant to serve until 2026-01-09: the mirror is out of date, "
        "or this machine's clock is wrong"
    ]
    assert releases(cache, told) == [RELEASE]
    mirror.server.files.clear()
    assert releases(cache, told, max_age=0) == [RELEASE]
    assert [line[:11] for line in told[2:]] == ["fetching th", "no new list"]


def test_an_index_that_never_expires_serves(mirror: Mirror, cache: Cache, told: list[str]) -> None:
    mirror.date, mirror.valid_for = datetime(2026, 1, 2, tzinfo=UTC), None
    mirror.publish()
    assert releases(cache, told) == [RELEASE]
    assert len(told) == 1


def test_a_package_that_was_changed_is_refused(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    (package,) = (path for path in mirror.server.files if path.endswith(".deb"))
    content = bytearray(mirror.server.files[package])
    content[-40] ^= 1
    mirror.server.files[package] = bytes(content)
    with pytest.raises(EnvironmentUnfit, match=r"\.deb has another file, of SHA-256"):
        resolve("6.12", None, cache, told.append)
    assert not list(cache.root.glob("kernel/*"))


def test_a_package_whose_transfer_breaks_off_is_refused(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    (package,) = (path for path in mirror.server.files if path.endswith(".deb"))
    mirror.server.breaking[package] = 2
    with pytest.raises(EnvironmentUnfit, match=r"\.deb: broken off after \d+ of \d+ bytes"):
        resolve("6.12", None, cache, told.append)
    assert resolve("6.12", None, cache, told.append).release == RELEASE


def test_an_unknown_version_names_what_is_on_offer(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    with pytest.raises(UsageError, match=rf"no kernel 6\.6; nearest .* {RELEASE[:6]}"):
        resolve("6.6", None, cache, told.append)


def test_an_archive_without_kernels_is_told(mirror: Mirror, cache: Cache, told: list[str]) -> None:
    mirror.stanzas = ""
    mirror.publish()
    with pytest.raises(EnvironmentUnfit, match=r"offers no kernels in sid; give a kernel's \.deb"):
        releases(cache, told)


@pytest.mark.parametrize("kept", ["", "{", "[1]", '[{"name": "x"}]', '{"a": 1}'])
def test_a_damaged_list_is_fetched_anew(
    mirror: Mirror, cache: Cache, told: list[str], kept: str
) -> None:
    releases(cache, [])
    (cache.root / "archive/sid.json").write_text(kept)
    assert releases(cache, told) == [RELEASE]
    assert len(told) == 1
