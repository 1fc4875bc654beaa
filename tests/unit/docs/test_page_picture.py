"""The README shows the page of a run, in a picture that a command takes."""

import runpy
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from support.browser import missing

PROJECT = Path(__file__).resolve().parents[3]
TOOL: dict[str, Any] = runpy.run_path(str(PROJECT / "tools" / "page_picture.py"))


def size_and_pixels(picture: Path) -> tuple[tuple[int, int], bytes]:
    """Return width and height of a PNG, and its rows, which are filtered but not compressed."""
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    rows, at = b"", 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            rows += data[at + 8 : at + 8 + length]
        at += 12 + length
    return (width, height), zlib.decompress(rows)


def test_the_readme_shows_the_picture_and_names_its_command() -> None:
    readme = (PROJECT / "README.md").read_text()
    picture = TOOL["PICTURE"].relative_to(PROJECT)
    assert f"]({picture})" in readme
    assert "tools/page_picture.py" in readme
    assert size_and_pixels(TOOL["PICTURE"])[0] == (TOOL["WIDTH"], TOOL["HEIGHT"])
    assert TOOL["PICTURE"].stat().st_size < 250_000


def test_the_command_takes_the_picture(tmp_path: Path) -> None:
    if not shutil.which("chromium"):
        missing("chromium")
    assert TOOL["main"](tmp_path / "page.png") is None
    size, rows = size_and_pixels(tmp_path / "page.png")
    assert size == (TOOL["WIDTH"], TOOL["HEIGHT"])
    # An empty page has next to no values.
    assert len(set(rows)) > 100


def test_without_chromium_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert TOOL["main"](tmp_path / "page.png").startswith("needs chromium; on Debian: ")
    assert not (tmp_path / "page.png").exists()
