"""The manual is made without a warning: every page has a place, and every link a target."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvmtest.kernels.series import FIX

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"


def sphinx(builder: str, source: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    options = ("-q", "-n", "-W", "--keep-going", "-b", builder)
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the manual, in each form."""
    target = tmp_path_factory.mktemp("manual")
    for builder in ("html", "man"):
        done = sphinx(builder, DOCS, target / builder)
        # A new page gets a place in docs/index.md.
        assert (done.returncode, done.stderr) == (0, "")
    return target


def test_every_page_of_the_docs_is_in_the_manual(made: Path) -> None:
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    html = made / "html"
    assert pages == {
        str(path.relative_to(html).with_suffix(""))
        for path in html.rglob("*.html")
        if path.name not in ("genindex.html", "search.html")
    }


def test_the_commands_are_in_the_page_of_the_command_line(made: Path) -> None:
    page = (made / "html/command-line.html").read_text()
    for words in ("--bisect", "--show-cpu-feature", "kvmtest lab run", "kvmtest smi probe"):
        assert words in page


@pytest.mark.skipif(not shutil.which("man"), reason="no man here: apt-get install man-db groff")
def test_man_shows_the_man_page_without_a_warning(made: Path) -> None:
    shown = subprocess.run(
        ["man", "--warnings=w", "--encoding=UTF-8", "-l", str(made / "man/kvmtest.1")],
        env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    for line in ("NAME", "SYNOPSIS", "COMMANDS", "   kvmtest lab run", "EXIT STATUS", "FILES"):
        assert line in shown.stdout.splitlines()
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("page", "warning"),
    [
        ("# A\n\n[a](nothing.md)\n", "nothing.md"),
        ("# A\n\n[a](../kvmtest/nothing)\n", "nothing"),
        ("# A\n\n[a](#nothing)\n", "nothing"),
    ],
)
def test_a_link_to_nothing_is_refused(tmp_path: Path, page: str, warning: str) -> None:
    shutil.copy(DOCS / "conf.py", tmp_path)
    (tmp_path / "index.md").write_text(page)
    done = sphinx("html", tmp_path, tmp_path / "made")
    assert done.returncode == 1
    assert warning in done.stderr


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_a_page_at_the_top_links_what_exists(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_a_path_of_the_docs_in_the_source_exists() -> None:
    """Messages and comments name pages, which must not move away under them."""
    sources = [*(ROOT / "kvmtest").rglob("*.py"), *(ROOT / "tools").rglob("*"), ROOT / "Makefile"]
    named = {
        (path, word)
        for path in sources
        if path.is_file() and path.suffix in ("", ".py", ".sh")
        for word in re.findall(
            r"(?<![\w/])docs/[a-z][\w/.-]*\.(?:md|json|config)", path.read_text()
        )
    }
    assert len(named) > 10
    absent = {word for _, word in named if not (ROOT / word).exists()}
    assert absent == {"docs/tree-compare.md"}, "KernelCI's own page, and no other"


def test_is_it_this_names_the_first_fixed_release_of_each_series() -> None:
    page = (DOCS / "is-it-this.md").read_text()
    said = re.search(r"Fixed in Linux ([\d.]+), and in stable ([\d., and]+)\. ", page)
    assert said is not None
    assert said[1] == FIX.in_version.removeprefix("v")
    stable = [f"{major}.{minor}.{patch}" for (major, minor), patch in FIX.stable.items()]
    assert re.findall(r"[\d.]+", said[2]) == stable
