"""lab/emulators/bochs/source.py: from a server on the loopback, a named file, the cache."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.file_server import FileServer, file_server

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import archive, signatures
from kvmtest.kernels.download import Place
from kvmtest.lab.emulators.bochs import source as subject
from kvmtest.lab.emulators.bochs.source import SourceMissing, source

FIRST, SECOND = b"repacked by a distribution", b"as released"
NAMES = {hashlib.sha256(FIRST).hexdigest(): "a.tar.xz", hashlib.sha256(SECOND).hexdigest(): "b.tgz"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setattr(subject, "_NAMES", NAMES)
    with file_server() as server:
        pool, other = (
            Place(server.url(f"/{name}"), digest, len(FIRST)) for digest, name in NAMES.items()
        )
        monkeypatch.setattr(subject, "_POOL", pool)
        monkeypatch.setattr(subject, "_DEBIAN", pool.sha256)
        monkeypatch.setattr(subject, "_OTHERS", (other,))
        monkeypatch.setattr(subject, "_SUITES", ("sid",))
        monkeypatch.setattr(archive, "MIRROR", server.url())
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def told() -> list[str]:
    return []


def test_it_comes_from_the_first_place_and_then_from_the_cache(
    server: FileServer, cache: Cache, told: list[str]
) -> None:
    server.files = {"/a.tar.xz": FIRST, "/b.tgz": SECOND}
    path = source(cache, told.append, {})
    assert (path.name, path.read_bytes()) == ("a.tar.xz", FIRST)
    assert told == [f"downloading the source of Bochs 3.0: {server.url('/a.tar.xz')}"]
    server.files.clear()
    assert source(cache, told.append, {}) == path
    assert server.asked == ["/a.tar.xz"]


def test_where_one_place_lost_it_the_next_has_its_own_archive(
    server: FileServer, cache: Cache, told: list[str]
) -> None:
    server.files = {"/b.tgz": SECOND}
    path = source(cache, told.append, {})
    assert (path.name, path.read_bytes()) == ("b.tgz", SECOND)
    server.files = {"/a.tar.xz": FIRST}
    assert source(cache, told.append, {}) == path
    assert [line.split()[0] for line in told] == ["downloading", "asking", "downloading"]


@pytest.mark.parametrize("moved", [True, False])
def test_where_the_archive_moved_it_the_signed_index_says_so(
    server: FileServer,
    cache: Cache,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moved: bool,
) -> None:
    pytest.importorskip("pysequoia")
    from support.debian_mirror import Key, Mirror, write_keyring

    mirror = Mirror(server, Key())
    write_keyring(tmp_path / "keyring", mirror.key)
    monkeypatch.setattr(signatures, "INSTALLED", (tmp_path / "keyring",))
    digest = next(iter(NAMES)) if moved else "0" * 64
    mirror.sources = (
        "Package: ash\nDirectory: pool/a\nChecksums-Sha256:\n"
        f" {'1' * 64} 5 a.tar.xz\n\n"
        "Package: bochs\nDirectory: pool/main/b/bochs\nFiles:\n"
        f" {'2' * 32} {len(FIRST)} a+dfsg.tar.xz\nChecksums-Sha256:\n"
        f" {digest} {len(FIRST)} a+dfsg.tar.xz\n"
    )
    mirror.publish()
    path = "/debian/pool/main/b/bochs/a%2Bdfsg.tar.xz"
    server.files |= {path: FIRST, "/b.tgz": SECOND}
    found = source(cache, told.append, {})
    assert found.read_bytes() == (FIRST if moved else SECOND)
    assert (path in server.asked) == moved


def test_a_place_is_trusted_with_its_own_archive_alone(
    server: FileServer, cache: Cache, told: list[str]
) -> None:
    server.files = {"/a.tar.xz": SECOND}
    with pytest.raises(SourceMissing, match="has another file"):
        source(cache, told.append, {})
    assert not any(path.is_file() for path in cache.root.rglob("*"))


def test_without_a_network_one_line_names_the_places_and_the_remedy(
    server: FileServer, cache: Cache, told: list[str]
) -> None:
    with pytest.raises(SourceMissing) as it:
        source(cache, told.append, {})
    assert str(it.value) == (
        f"the source of Bochs 3.0 can't be fetched ({server.url('/a.tar.xz')}: 404 Not Found; "
        f"{server.url('/debian/dists/sid/InRelease')}: 404 Not Found; "
        f"{server.url('/b.tgz')}: 404 Not Found); check the network, or name the file: "
        "KVMTEST_BOCHS_SOURCE=FILE"
    )
    assert isinstance(it.value, EnvironmentUnfit)


@pytest.mark.parametrize("content", [FIRST, SECOND])
def test_a_named_file_of_a_known_digest_is_taken_without_a_network(
    server: FileServer, cache: Cache, told: list[str], tmp_path: Path, content: bytes
) -> None:
    given = tmp_path / "whatever it is called"
    given.write_bytes(content)
    path = source(cache, told.append, {"KVMTEST_BOCHS_SOURCE": str(given)})
    assert path.read_bytes() == content
    assert path.is_relative_to(cache.root)
    given.unlink()
    assert source(cache, told.append, {}) == path
    assert (told, server.asked) == ([], [])


def test_a_named_file_that_is_another_is_refused_although_the_cache_has_it(
    server: FileServer, cache: Cache, told: list[str], tmp_path: Path
) -> None:
    server.files = {"/a.tar.xz": FIRST}
    source(cache, told.append, {})
    given = tmp_path / "c.tar"
    for content, words in ((b"c", "is not the source of Bochs 3.0"), (None, "can't read")):
        given.unlink(missing_ok=True)
        if content:
            given.write_bytes(content)
        with pytest.raises(SourceMissing, match=f"^KVMTEST_BOCHS_SOURCE: .*{words}"):
            source(cache, told.append, {"KVMTEST_BOCHS_SOURCE": str(given)})


def test_an_empty_variable_names_no_file(server: FileServer, cache: Cache, told: list[str]) -> None:
    server.files = {"/a.tar.xz": FIRST}
    assert source(cache, told.append, {"KVMTEST_BOCHS_SOURCE": ""}).read_bytes() == FIRST


def test_each_place_has_an_archive_with_a_name() -> None:
    places = (subject._POOL, *subject._OTHERS)
    assert {place.sha256 for place in places} == set(subject._NAMES)
    assert all(place.url.startswith(("http://", "https://")) for place in places)
