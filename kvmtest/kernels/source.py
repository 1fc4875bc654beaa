"""Kernel source
=============

Reads files of a kernel's source tree: unpacked, in a tarball, or at a revision of a git repository.
Nothing is checked out, and nothing of the tree is run.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import files, tarball
from kvmtest.kernels.tarball import Member

__all__ = ["Source", "in_folder", "in_git", "in_tarball", "is_repository", "is_tree"]

_MAKEFILE = "Makefile"
# Enough to tell a kernel's source from any other tree.
_KVM = "arch/x86/kvm/x86.c"

# The part of a tarball that is kept: 8 MiB in 7.3.
_KEPT = re.compile(r"Makefile|arch/x86/(?:kvm|include)/.+\.[chS]")
_ASSIGNMENT = re.compile(r"^([A-Z]+) *= *(\S*)$", re.MULTILINE | re.ASCII)

_LAST_KEPT = "arch/x86/"
_MOST_KEPT = 128 * files.MIB


@dataclass(frozen=True, slots=True)
class Source:
    """The source of one kernel."""

    version: str
    """As its Makefile has it, such as 6.12.117 or 7.3.0-rc7."""

    read: Callable[[str], str | None] = field(repr=False)
    """Returns a file's text by its path in the tree, or None where there is none."""

    commit: str = ""
    """The first digits of the commit that it is of, or that its work tree began with; "" without
    git."""


def is_tree(folder: Path) -> bool:
    """Tell whether a folder is the top of a kernel's source."""
    return (folder / _KVM).is_file()


def in_folder(folder: Path) -> Source:
    """Return the source in an unpacked tree, as its files are now."""

    def read(path: str) -> str | None:
        file = folder / path
        return files.text(file) if file.is_file() else None

    # A tree inside another project's repository is not at that one's commit.
    own = _is_work_tree(folder)
    return Source(_version(read), read, _revision(folder, "HEAD") if own else "")


def is_repository(folder: Path) -> bool:
    """Tell whether a folder is a git repository itself, bare or with a work tree."""
    return _is_work_tree(folder) or _has_objects(folder)


def in_git(repository: Path, revision: str) -> Source:
    """Return the source at a revision of a git repository.

    Raises UsageError where it has no such revision or that is no kernel, EnvironmentUnfit without
    git.
    """
    commit = _revision(repository, revision)
    if not commit:
        raise UsageError(f"{repository} has no revision {revision}; see git -C {repository} log")

    def read(path: str) -> str | None:
        found = _git(repository, "cat-file", "blob", f"{commit}:{path}")
        return None if found is None else _text(found)

    if read(_KVM) is None:
        raise UsageError(f"{repository} at {revision} is no kernel's source: it lacks {_KVM}")
    return Source(_version(read), read, commit)


def in_tarball(path: Path) -> Source | None:
    """Return the source in a tar archive, whatever it is compressed with; None where it has none.

    Raises EnvironmentUnfit where the archive is damaged or a library is missing.
    """
    kept: dict[str, str] = {}
    size = 0
    with tarball.members(path) as members:
        for name, member in _kept(members):
            size += member.size
            if size > _MOST_KEPT:
                raise ValueError(f"arch/x86 in it has more than {_MOST_KEPT >> 20} MiB")
            kept[name] = _text(member.open().read())
    if _KVM not in kept:
        return None
    return Source(_version(kept.get), kept.get)


def _is_work_tree(folder: Path) -> bool:
    git = folder / ".git"
    # A file where the objects are elsewhere: gitrepository-layout(5).
    return git.is_file() or _has_objects(git)


def _has_objects(folder: Path) -> bool:
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir()


def _kept(members: Iterable[Member]) -> Iterator[tuple[str, Member]]:
    """Give name below the archive's one folder, and member, of the files that are kept.

    Whoever makes an archive walks a tree, so all of a folder stands together: nothing is read
    behind it, which is most of the archive.
    """
    has_makefile = was_inside = False
    for member in members:
        name = "/".join(member.name.parts[1:])
        is_inside = name.startswith(_LAST_KEPT)
        if was_inside and not is_inside and has_makefile:
            return
        was_inside |= is_inside
        if _KEPT.fullmatch(name):
            has_makefile |= name == _MAKEFILE
            yield name, member


def _version(read: Callable[[str], str | None]) -> str:
    makefile = read(_MAKEFILE) or ""
    values: dict[str, str] = dict(_ASSIGNMENT.findall(makefile))
    numbers = [values.get(name, "") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(filter(None, numbers)) + values.get("EXTRAVERSION", "")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _revision(repository: Path, revision: str) -> str:
    """Return the first twelve digits of a commit's id; "" where there is no such commit."""
    found = _git(
        repository, "rev-parse", "--verify", "--quiet", "--short=12", "--end-of-options",
        f"{revision}^{{commit}}",
    )  # fmt: skip
    return _text(found or b"").strip()


def _git(repository: Path, *words: str) -> bytes | None:
    """Run a git command that only reads objects; return its output, or None where it failed.

    Nothing that such a command does runs a program of the repository's configuration, nor asks
    another host for objects that a partial clone lacks.
    """
    settings = {"GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    # A repository that the environment names, as in a hook, is not the one that is meant.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with tempfile.TemporaryFile() as complaints:
        try:
            with subprocess.Popen(
                ["git", "--no-pager", "-C", repository, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=kept | settings,
            ) as process:
                assert process.stdout
                output = process.stdout.read(files.TEXT + 1)
                if len(output) > files.TEXT:
                    process.kill()
        except FileNotFoundError:
            raise EnvironmentUnfit(
                f"reading the repository {repository} needs git; install it, or name an unpacked "
                "tree"
            ) from None
        complaints.seek(0)
        said = complaints.read(files.TEXT)
    if len(output) > files.TEXT:
        raise EnvironmentUnfit(f"{words[-1]} of {repository} has over {files.TEXT >> 20} MiB")
    if process.returncode and b"dubious ownership" in said:
        raise EnvironmentUnfit(
            f"git refuses {repository}, which belongs to another user; read it as that user"
        )
    return None if process.returncode else output
