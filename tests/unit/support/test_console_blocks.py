import os
import select
from contextlib import suppress
from pathlib import Path

import pytest
from support.console_blocks import Step, play, steps

PAGE = """\
# A page

```console
$ cd sub && x=3
$ echo $x; pwd
3
.../sub
```

```text
$ no command
```

```console
$ false
$ echo $?
1
```
"""


def played(page: str, folder: Path) -> list[str]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    return list(play(steps(page), folder, dict(os.environ), folder / "logs", timeout=30))


def test_the_commands_of_a_page_are_those_of_its_console_blocks() -> None:
    assert steps(PAGE) == [
        Step("cd sub && x=3", ""),
        Step("echo $x; pwd", "3\n.../sub\n"),
        Step("false", ""),
        Step("echo $?", "1\n"),
    ]


def test_a_command_may_have_several_lines(tmp_path: Path) -> None:
    page = "```console\n$ cat <<END\n> a\n>\n>   b\n> END\na\n<BLANKLINE>\n  b\n$ true\n```\n"
    assert steps(page) == [
        Step("cat <<END\na\n\n  b\nEND", "a\n<BLANKLINE>\n  b\n"),
        Step("true", ""),
    ]
    assert played(page, tmp_path) == []


def test_what_a_page_leaves_in_the_background_ends(tmp_path: Path) -> None:
    page = "```console\n$ sleep 9999 >/dev/null 2>&1 &\n$ echo $! >pid\n```\n"
    assert played(page, tmp_path) == []
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(int((tmp_path / "pid").read_text()))
        assert select.select([pidfd], [], [], 30)[0]
        os.close(pidfd)


def test_they_run_in_one_shell(tmp_path: Path) -> None:
    assert played(PAGE, tmp_path) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (".../sub", ".../sup"),
        ("3\n", "4\n"),
        ("$ false\n", "$ true\n"),
        ("$ echo $?\n1\n", ""),
        ("cd sub", "cd suc"),
        ("$ false\n", "$ false\nsaid\n"),
    ],
)
def test_a_page_that_shows_something_else_is_told(tmp_path: Path, right: str, wrong: str) -> None:
    assert played(PAGE.replace(right, wrong, 1), tmp_path)
