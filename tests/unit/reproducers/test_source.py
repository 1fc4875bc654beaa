"""The C files: whole, short, compiled without a warning, and honest where they can't tell."""

import re
import subprocess
from pathlib import Path

import pytest

from kvmtest.reproducers import REPRODUCERS, Reproducer, c_source, makefile, source
from kvmtest.reproducers.numbers import meanings

FOLDER = Path(source.__file__).parent
EACH = pytest.mark.parametrize("reproducer", REPRODUCERS, ids=lambda each: each.name)


def written(reproducer: Reproducer, folder: Path, text: str = "") -> Path:
    """Write a program's files, or one of another text; return the path that make builds it at."""
    (folder / f"{reproducer.name}.c").write_text(text or c_source(reproducer))
    (folder / "Makefile").write_text(makefile(reproducer))
    return folder / reproducer.name


def make(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = ["make", "-C", str(folder), "CFLAGS=-O2 -Wall -Wextra -Werror", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@EACH
def test_it_is_one_short_file_without_an_open_name(reproducer: Reproducer) -> None:
    text = c_source(reproducer)
    assert text.startswith("// SPDX-License-Identifier: GPL-2.0-only\n/*\n * ")
    assert text.count("\n") < 300
    assert "@" not in text
    assert max(map(len, text.expandtabs(8).splitlines())) <= 100
    assert all(f'\t"{claim}",\n' in text for claim in reproducer.claims)


@EACH
def test_it_tells_each_claim_once(reproducer: Reproducer) -> None:
    main = c_source(reproducer).partition("int main(void)")[2]
    told = main.count("\ttell(")
    assert told == len(reproducer.claims) or "told < ARRAY_SIZE(claims)" in main


@EACH
def test_it_is_compiled_without_a_warning_and_cleaned_away(
    reproducer: Reproducer, tmp_path: Path
) -> None:
    program = written(reproducer, tmp_path)
    done = make(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert program.is_file()
    assert make(tmp_path, "clean").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", f"{program.name}.c"]


@EACH
def test_where_it_can_t_tell_every_claim_is_skipped_and_the_status_is_4(
    reproducer: Reproducer, tmp_path: Path
) -> None:
    text = re.sub(r'"/(?=dev/|sys/)', '"/none/', c_source(reproducer))
    program = written(reproducer, tmp_path, text)
    assert make(tmp_path).returncode == 0
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (4, "")
    head, plan, *lines = done.stdout.splitlines()
    assert (head, plan) == ("KTAP version 1", f"1..{len(reproducer.claims)}")
    assert [line.partition(" # SKIP ")[0] for line in lines] == [
        f"ok {number} {claim}" for number, claim in enumerate(reproducer.claims, 1)
    ]
    assert all("No such file or directory" in line for line in lines)


def test_every_text_is_of_use() -> None:
    parts = {part for each in REPRODUCERS for part in each.parts}
    assert {path.stem for path in (FOLDER / "parts").iterdir()} == parts
    names = {f"{each.name}.c" for each in REPRODUCERS}
    assert {path.name for path in (FOLDER / "programs").iterdir()} == names


def test_every_number_is_of_use() -> None:
    texts = [path.read_text() for path in FOLDER.glob("*/*.c")]
    named = {name for text in texts for name in re.findall(r"@([\w:]+)@", text)}
    assert named - {"CLAIMS"} == set(meanings())
