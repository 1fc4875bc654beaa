"""A commit is checked by what make lint runs, and by nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / ".pre-commit-config.yaml"
MAKEFILE = (PROJECT / "Makefile").read_text()


def hooks() -> list[dict[str, Any]]:
    (local,) = yaml.safe_load(CONFIG.read_text())["repos"]
    found: list[dict[str, Any]] = local["hooks"]
    return found


def checks_of_lint() -> list[str]:
    """Return the targets that make lint is made of; it has no commands of its own."""
    found = re.search(r"^lint: (.*)\n(?!\t)", MAKEFILE, re.MULTILINE)
    assert found
    return found[1].split()


def test_the_hooks_are_the_targets_of_make_lint() -> None:
    assert [hook["id"] for hook in hooks()] == checks_of_lint()
    assert [hook["entry"] for hook in hooks()] == [f"make {name}" for name in checks_of_lint()]
    for name in checks_of_lint():
        assert re.search(rf"^{name}: .*\n\t", MAKEFILE, re.MULTILINE), f"{name} does nothing"


def test_a_hook_looks_at_all_files_whatever_a_commit_changes() -> None:
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in hooks())


class Repository:
    """A git repository with the hooks, whose targets fail where a file has their name."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        names = ("GIT_", "PRE_COMMIT", "MAKE", "MFLAGS")
        mine = {k: v for k, v in os.environ.items() if not k.startswith(names)}
        self._environment = mine | {
            "PRE_COMMIT_HOME": str(home),
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        folder.mkdir()
        shutil.copy(CONFIG, folder)
        targets = " ".join(checks_of_lint())
        makefile = f".PHONY: {targets}\n{targets}:\n\t@test ! -e broken/$@\n"
        (folder / "Makefile").write_text(makefile)
        for words in (
            ["git", "init", "--quiet"],
            ["git", "config", "user.name", "Somebody"],
            ["git", "config", "user.email", "somebody@example.org"],
            [sys.executable, "-m", "pre_commit", "install"],
        ):
            assert self.run(*words).returncode == 0

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def commit(self) -> "subprocess.CompletedProcess[str]":
        self.run("git", "add", "--all")
        return self.run("git", "commit", "--message", "Change something")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    if not shutil.which("git"):
        pytest.skip("needs git")
    return Repository(tmp_path / "repository", tmp_path)


def test_a_commit_that_lint_likes_is_made(repository: Repository) -> None:
    done = repository.commit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("Passed") == len(hooks())
    assert repository.run("git", "rev-list", "--count", "HEAD").stdout == "1\n"


def test_a_commit_that_a_check_refuses_is_not_made(repository: Repository) -> None:
    refused = checks_of_lint()[-1]
    (repository.folder / "broken").mkdir()
    (repository.folder / "broken" / refused).touch()
    done = repository.commit()
    assert done.returncode == 1
    assert f"hook id: {refused}" in done.stderr
    assert done.stderr.count("Passed") == len(hooks()) - 1
    assert repository.run("git", "rev-parse", "--verify", "HEAD").returncode != 0
