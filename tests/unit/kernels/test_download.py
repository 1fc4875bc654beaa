"""kernels/download.py: from a server on the loopback, and from files."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.file_server import FileServer, file_server

from kvmtest.kernels import download as subject
from kvmtest.kernels.download import DownloadError, Place, download, read

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.delenv("http_proxy", raising=False)
    with file_server() as server:
        server.files["/file"] = CONTENT
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def place(server: FileServer, name: str = "/file", most: int = len(CONTENT)) -> Place:
    return Place(server.url(name), DIGEST, most)


def left(path: Path) -> list[str]:
    return [each.name for each in path.parent.iterdir()]


def test_a_file_comes_from_the_first_place_that_has_it(server: FileServer, path: Path) -> None:
    places = [place(server, name) for name in ("/gone", "/file", "/never-asked")]
    assert download(places, path) == places[1]
    assert path.read_bytes() == CONTENT
    assert server.asked == ["/gone", "/file"]
    assert left(path) == ["file"]


def test_a_file_of_this_machine_will_do(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(CONTENT)
    download([Place(other.as_uri(), DIGEST, len(CONTENT))], path)
    assert path.read_bytes() == CONTENT


def test_another_file_is_refused_and_the_next_place_is_tried(
    server: FileServer, path: Path
) -> None:
    server.files["/other"] = CONTENT[1:]
    download([place(server, "/other"), place(server)], path)
    assert path.read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=r"/other has another file, of SHA-256 [0-9a-f]{64}$"):
        download([place(server, "/other")], path)


def test_what_every_place_said_is_in_one_line(server: FileServer, path: Path) -> None:
    missing = Place(path.with_name("missing").as_uri(), DIGEST, len(CONTENT))
    nobody = Place("http://127.0.0.1:1/file", DIGEST, len(CONTENT))
    with pytest.raises(DownloadError) as it:
        download([place(server, "/gone"), missing, nobody], path)
    assert [each.rpartition(": ")[2] for each in str(it.value).split("; ")] == [
        "404 Not Found",
        "No such file or directory",
        "Connection refused",
    ]
    assert "\n" not in str(it.value)
    assert left(path) == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_transfer_that_breaks_off_is_begun_again_once(
    server: FileServer, path: Path, times: int
) -> None:
    server.breaking["/file"] = times
    if times == 1:
        download([place(server)], path)
        assert path.read_bytes() == CONTENT
    else:
        with pytest.raises(DownloadError, match="broken off after 128000 of 256000 bytes"):
            download([place(server)], path)
        assert left(path) == []
    assert server.asked == ["/file", "/file"]


@pytest.mark.parametrize("announces", [True, False])
def test_a_file_that_is_too_large_is_refused(
    server: FileServer, path: Path, announces: bool
) -> None:
    server.announces = announces
    with pytest.raises(DownloadError, match=r"more than the 255999 .*expected$"):
        download([place(server, most=len(CONTENT) - 1)], path)
    assert left(path) == []


def test_a_place_that_falls_silent_is_given_up(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SILENCE_S", 0.1)
    server.stalling.add("/file")
    with pytest.raises(DownloadError, match=r"broken off after 1 bytes \(timed out\)"):
        download([place(server)], path)


def test_a_place_that_is_too_slow_is_given_up(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(subject, "_SLOWEST", 1 << 60)
    with pytest.raises(DownloadError, match=r"too slow: [0-9]+ bytes in 0 s"):
        download([place(server)], path)


def test_the_environments_proxy_is_asked(
    server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url())
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.files["http://archive.invalid/file"] = CONTENT
    download([Place("http://archive.invalid/file", DIGEST, len(CONTENT))], path)
    assert server.asked == ["http://archive.invalid/file"]


def test_a_file_of_unknown_digest_is_read_within_its_bound(server: FileServer) -> None:
    assert read(server.url("/file"), len(CONTENT)) == CONTENT
    with pytest.raises(DownloadError, match="256000 bytes, more than the 10 expected"):
        read(server.url("/file"), 10)
