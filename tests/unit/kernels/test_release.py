"""kernels/release.py: what indices say, and what is none."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import support
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.release import ListFile, parse_release

DIGESTS = [digit * 64 for digit in "0123"]
TEXT = f"""\
Origin: Debian
Suite: unstable
Codename: sid
Date: Sat, 28 Nov 2026 02:53:00 UTC
Valid-Until: Sat, 05 Dec 2026 02:53:00 UTC
Acquire-By-Hash: yes
MD5Sum:
 {"f" * 32}  30 main/binary-amd64/Packages
SHA256:
 {DIGESTS[0]}  300 main/binary-amd64/Packages
 {DIGESTS[1]}   20 main/binary-amd64/Packages.gz
 {DIGESTS[2]}   10 main/binary-amd64/Packages.xz
 {DIGESTS[3]}   10 main/source/Sources.gz
"""


def test_an_index_is_parsed_whole() -> None:
    release = parse_release(TEXT, "sid")
    assert release.date == datetime(2026, 11, 28, 2, 53, tzinfo=UTC)
    assert release.valid_until == datetime(2026, 12, 5, 2, 53, tzinfo=UTC)
    assert release.by_hash
    assert release.list_files("main/binary-amd64/Packages") == [
        ListFile("main/binary-amd64/Packages.xz", DIGESTS[2], 10),
        ListFile("main/binary-amd64/Packages.gz", DIGESTS[1], 20),
        ListFile("main/binary-amd64/Packages", DIGESTS[0], 300),
    ]
    (sources,) = release.list_files("main/source/Sources")
    assert sources.sha256 == DIGESTS[3]
    assert release.list_files("main/binary-arm64/Packages") == []


def test_an_index_of_the_archive_is_parsed() -> None:
    text = Path(support.__file__).with_name("bullseye-security.InRelease").read_text()
    release = parse_release(text.partition("\n\n")[2], "bullseye-security")
    assert (release.date.year, release.valid_until, release.by_hash) == (2026, None, True)
    assert [file.size for file in release.list_files("main/binary-amd64/Packages")] == [
        474876, 626180, 3047551
    ]  # fmt: skip


def test_a_suite_has_two_names() -> None:
    assert parse_release(TEXT, "sid") == parse_release(TEXT, "unstable")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT, "it is the index of sid or unstable, not of trixie"),
        ("", "it is the index of nothing, not of trixie"),
        ("Suite: trixie\n", "its Date is no time: empty"),
        ("Suite: trixie\nDate: yesterday\n", "its Date is no time: yesterday"),
        ("Suite: trixie\nDate: Sat, 99 Nov 2026 02:53:00 UTC\n", "its Date is no time"),
        (
            "Suite: trixie\nDate: Sat, 28 Nov 2026 02:53:00 UTC\nValid-Until: later\n",
            "its Valid-Until is no time: later",
        ),
    ],
)
def test_what_is_no_index_of_the_suite_is_refused(text: str, words: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=f"^{words}"):
        parse_release(text, "trixie")


def test_times_of_other_zones_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    assert parse_release(TEXT, "sid").date == datetime(2026, 11, 28, 2, 53, tzinfo=UTC)
    monkeypatch.undo()
    time.tzset()
    text = TEXT.replace("02:53:00 UTC", "03:53:00 +0100")
    assert parse_release(text, "sid") == parse_release(TEXT, "sid")


@pytest.mark.parametrize("line", ["../../etc/passwd x", "a b", "", "main/\ufffd"])
def test_a_file_whose_line_is_none_is_left_out(line: str) -> None:
    text = TEXT + f" {DIGESTS[0]} 1 {line}\n"
    assert parse_release(text, "sid").files.keys() == parse_release(TEXT, "sid").files.keys()


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for each in (text, f"Suite: sid\n{text}", f"Suite: sid\nDate: {text}\nSHA256:\n{text}"):
        with suppress(EnvironmentUnfit):
            parse_release(each, "sid")
