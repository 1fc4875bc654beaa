"""lab/emulators/bochs/log.py: why an emulator ended."""

from pathlib import Path

import pytest

from kvmtest.lab.emulators.bochs.log import LOG, last_words

PANIC = """\
00000000000i[MEM0  ] allocated memory at 0x7f
00000000001p[      ] >>PANIC<< first
00000000002p[PLUGIN] >>PANIC<< no such display
00000000003i[CPU0  ] cpu state
"""


@pytest.mark.parametrize(
    ("log", "printed", "words"),
    [
        (PANIC, "a line\n", "no such display"),
        ("no panic\n", "a line\nthe last line\n\n", "the last line"),
        (None, "the last line", "the last line"),
        (None, None, ""),
    ],
)
def test_the_last_panic_is_given_or_the_last_line_that_was_printed(
    tmp_path: Path, log: str | None, printed: str | None, words: str
) -> None:
    for name, text in ((LOG, log), ("stderr", printed)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert last_words(tmp_path) == words
