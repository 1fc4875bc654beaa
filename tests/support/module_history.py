"""A git repository whose commits hold modules of KVM, as the kernel's do after make."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.stand_in import environment


def git(repository: Path, *words: str) -> str:
    """Run git in a repository, without the user's configuration; return what it printed."""
    identity = {
        f"GIT_{role}_{what}": "kvmtest"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    inherited = {k: v for k, v in environment().items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", *words],
        cwd=repository,
        env={**inherited, **identity, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder of modules, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def commit(repository: Path, subject: str, files: Mapping[str, bytes] | None) -> None:
    """Commit other modules, or, where there are none, a note alone."""
    if files is not None:
        shutil.rmtree(repository / "modules", ignore_errors=True)
    for name, data in (files or {}).items():
        (repository / "modules").mkdir(exist_ok=True)
        (repository / "modules" / name).write_bytes(data)
    (repository / "note").write_text(f"{subject}\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", f"--message={subject}")
