"""Text in lines: what fits, what is broken, and where the exit status stands."""

import pytest
from rich.text import Text

from kvmtest.report.wrapping import WIDTH, headed, wrapped


def plain(lines: list[Text]) -> list[str]:
    return [line.plain for line in lines]


def test_only_a_word_longer_than_a_line_is_broken() -> None:
    assert plain(wrapped("the well-known  word\nand abcdefghijklmnopq", 12)) == [
        "the", "well-known", "word and abc", "defghijklmno", "pq",
    ]  # fmt: skip
    assert plain(wrapped("", 12)) == [""]


def test_lines_are_indented_or_hang() -> None:
    assert plain(wrapped("one two", 6, "  ")) == ["  one", "  two"]
    assert plain(wrapped("one two", 6, hanging="  ")) == ["one", "  two"]


def test_no_control_character_reaches_a_terminal() -> None:
    assert plain(wrapped("a\x1bb", 12)) == ["a\N{REPLACEMENT CHARACTER}b"]


@pytest.mark.parametrize("width", [24, 60, WIDTH, 200])
def test_the_exit_status_ends_the_first_line_of_a_page(width: int) -> None:
    first, *others = headed("PASS: the fix works in Linux 6.12.117", 0, width, "green")
    assert len(first.plain) == min(width, WIDTH)
    assert first.plain.endswith("  exit 0")
    assert [first.plain[span.start : span.end] for span in first.spans] == ["PASS", "exit 0"]
    said = " ".join([first.plain.removesuffix("exit 0").strip(), *plain(others)])
    assert said == "PASS: the fix works in Linux 6.12.117"
