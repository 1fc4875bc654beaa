"""The patch of each finding applies to the source that it names, exactly where it says."""

import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvmtest.findings import findings, patch

TOOL: dict[str, Any] = runpy.run_path(
    str(Path(__file__).resolve().parents[3] / "tools" / "finding_sources.py")
)
SUFFIX = ".txt"


def tree_of(name: str, folder: Path) -> Path:
    """Restore what is recorded of the source that a finding's patch is made against."""
    recorded = TOOL["RECORDED"] / name
    for path in recorded.rglob(f"*{SUFFIX}"):
        target = folder / str(path.relative_to(recorded)).removesuffix(SUFFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(TOOL["restored"](path.read_text()))
    return folder


def applied(command: list[str], diff: str, tree: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=tree, input=diff, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", findings())
def test_the_patch_applies_to_the_source_that_the_finding_names(name: str, tmp_path: Path) -> None:
    assert TOOL["version"](name)
    done = applied(["git", "apply", "--verbose"], patch(name), tree_of(name, tmp_path / "git"))
    assert done.returncode == 0, done.stderr
    if shutil.which("patch"):
        done = applied(["patch", "-p1", "--fuzz=0"], patch(name), tree_of(name, tmp_path / "patch"))
        assert done.returncode == 0, done.stdout
        # "Hunk #1 succeeded at 12 (offset 2 lines)."
        assert "offset" not in done.stdout


def test_a_patch_of_another_source_is_refused(tmp_path: Path) -> None:
    tree = tree_of("lost-update-while-emulating", tmp_path)
    done = applied(["git", "apply"], patch("lost-dr6-while-emulating").replace("dr6", "dr7"), tree)
    assert done.returncode == 1


def test_what_is_recorded_is_restored_at_its_place(tmp_path: Path) -> None:
    lines = [f"line {number}\n" for number in range(1, 101)]
    (tmp_path / "a.c").write_text("".join(lines))
    diff = "--- a/a.c\n+++ b/a.c\n@@ -20,3 +20,2 @@ f\n@@ -60,5 +59,6 @@\n"
    restored = TOOL["restored"](TOOL["cut"](diff, tmp_path)["a.c"]).splitlines(keepends=True)
    assert (len(restored), restored.count("\n")) == (74, 9 + 17)
    assert all(line in ("\n", lines[number]) for number, line in enumerate(restored))
