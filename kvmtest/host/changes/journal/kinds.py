"""Kinds of undo
=============

What an entry of the record can ask for: a table of functions, each with its arguments.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from kvmtest.host.tree import Tree

__all__ = [
    "GONE",
    "NOT_UNDONE",
    "UNDO_KINDS",
    "CommandError",
    "Kind",
    "Site",
    "one_line",
    "program",
    "put",
    "reload",
    "remove",
    "text_of",
]

# With one of these errors there is nothing left to undo: the file, probe or module is gone.
GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})

# Where commands are besides $PATH, which lacks the sbin directories under plain `su`.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
_COMMAND_SECONDS = 60.0

# include/uapi/linux/fs.h; a guardian does not load the native module, which has such numbers.
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10


class Site(NamedTuple):
    """Where to undo; commands inherit ``hold``, so that their end is awaited too."""

    tree: Tree
    hold: tuple[int, ...] = ()


class Kind(NamedTuple):
    """A way to undo, and its arguments: each one's name and check.

    ``outlasts`` tells that the change survives a restart of the machine.
    """

    undo: Callable[..., None]
    arguments: Mapping[str, Callable[[Any], bool]]
    outlasts: bool = False


def _undo_write(site: Site, path: str, text: str) -> None:
    """Write ``text`` to the file; an error does not matter if the file says ``text`` already."""
    target = site.tree.path(path)
    try:
        put(target, text, os.O_TRUNC)
    except OSError as error:
        if error.errno in GONE or text_of(target) != text:
            raise


def _undo_append(site: Site, path: str, text: str) -> None:
    """Append ``text``, e.g. "-:kvmtest/probe" to kprobe_events, where truncation clears all."""
    put(site.tree.path(path), text, os.O_APPEND)


def _undo_rmdir(site: Site, path: str) -> None:
    """Remove a directory of ours, e.g. a tracing instance."""
    site.tree.path(path).rmdir()


def _undo_unlink(site: Site, path: str) -> None:
    """Remove a file of ours."""
    remove(site.tree.path(path))


def _undo_variable(site: Site, path: str, data: str) -> None:
    """Write a UEFI variable's bytes, given in hexadecimal, unless it has them.

    In one write, as efivarfs hands each write to the firmware.
    """
    target, wanted = site.tree.path(path), bytes.fromhex(data)
    if target.read_bytes() != wanted:
        fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, wanted)
        finally:
            os.close(fd)


def _make_mutable(path: Path) -> None:
    """Clear a file's immutable flag. Raises OSError."""
    import fcntl

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = bytearray(8)
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
        left = int.from_bytes(flags[:4], "little") & ~_FS_IMMUTABLE_FL
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, left.to_bytes(8, "little"))
    finally:
        os.close(fd)


def _undo_reload(site: Site, module: str, parameters: list[str]) -> None:
    """Load a kernel module with these parameters, unless it is loaded with them.

    It still is where the change could not unload it, because somebody uses it.
    """
    folder = f"/sys/module/{module}"
    settings = (setting.partition("=") for setting in parameters)
    is_so = all(site.tree.read(f"{folder}/parameters/{n}") == value for n, _, value in settings)
    if not (is_so and site.tree.exists(f"{folder}/initstate")):
        reload(site, module, parameters)


def _undo_affinities(site: Site, tasks: list[list[Any]], files: list[list[str]]) -> None:
    """Give threads and files their CPU lists, where these changed and threads still live.

    Raises CommandError that names what could not be restored.
    """
    from kvmtest.host.changes.lock import process_start
    from kvmtest.host.facts.cpu import parse_cpu_list
    from kvmtest.host.facts.hotplug import cpus_allowed

    failed = []
    for tid, start, cpus in tasks:
        try:
            if process_start(tid) == start and cpus_allowed(Tree(), f"/proc/{tid}") != cpus:
                os.sched_setaffinity(tid, parse_cpu_list(cpus))
        except OSError as error:
            if error.errno not in GONE:
                failed.append(f"thread {tid} to CPU {cpus}: {error.strerror}")
    for name, cpus in files:
        path = site.tree.path(name)
        try:
            if text_of(path) not in (None, cpus):
                put(path, cpus, os.O_TRUNC)
        except OSError as error:
            if error.errno not in GONE:
                failed.append(f"{name} to {cpus}: {error.strerror}")
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CommandError(f"{failed[0]}{more}")


def _undo_nothing(_: Site) -> None:
    """Do nothing: the change lasts, e.g. that of clear_warn_once."""


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and "\0" not in value


def _is_hex(value: Any) -> bool:
    try:
        return _is_text(value) and bool(bytes.fromhex(value))
    except ValueError:
        return False


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(word) for word in value)


def _are_rows(*kinds: type) -> Callable[[Any], bool]:
    """Return the check of a list of lists, each with elements of these kinds."""

    def is_row(row: Any) -> bool:
        return isinstance(row, list) and list(map(type, row)) == list(kinds)

    return lambda value: isinstance(value, list) and all(map(is_row, value))


#: The kind of a lasting change, which is recorded and never undone.
NOT_UNDONE = "nothing"

UNDO_KINDS: Mapping[str, Kind] = {
    "write": Kind(_undo_write, {"path": _is_text, "text": _is_text}),
    "append": Kind(_undo_append, {"path": _is_text, "text": _is_text}),
    "rmdir": Kind(_undo_rmdir, {"path": _is_text}),
    "unlink": Kind(_undo_unlink, {"path": _is_text}),
    "variable": Kind(_undo_variable, {"path": _is_text, "data": _is_hex}, outlasts=True),
    "reload": Kind(_undo_reload, {"module": _is_text, "parameters": _is_words}),
    "affinities": Kind(
        _undo_affinities, {"tasks": _are_rows(int, int, str), "files": _are_rows(str, str)}
    ),
    NOT_UNDONE: Kind(_undo_nothing, {}),
}


class CommandError(Exception):
    """A command could not be run, or failed."""


def one_line(error: Exception) -> str:
    """Return the message of ``error`` as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def text_of(path: Path) -> str | None:
    """Return the stripped text of ``path``, every byte kept, or None where it can't be read."""
    try:
        return path.read_bytes().decode(errors="surrogateescape").strip()
    except OSError:
        return None


def put(path: Path, text: str, flags: int) -> None:
    """Write ``text`` and a newline to a file that is there. Raises OSError."""
    data = f"{text}\n".encode(errors="surrogateescape")
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, even an immutable one: efivarfs makes those of unknown names so.

    Raises OSError.
    """
    try:
        path.unlink()
    except PermissionError:
        _make_mutable(path)
        path.unlink()


def _run_command(site: Site, argv: Sequence[str]) -> None:
    """Run ``argv``, its program and working directory in the tree. Raises CommandError."""
    import subprocess

    try:
        done = subprocess.run(
            argv,
            executable=program(site.tree, argv[0]),
            cwd=site.tree.root,
            pass_fds=site.hold,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"it did not end in {error.timeout:g} s") from error
    except OSError as error:
        raise CommandError(str(error)) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise CommandError(f"exit status {done.returncode}: {said[-1] if said else 'no output'}")


def reload(site: Site, module: str, parameters: Sequence[str]) -> None:
    """Unload a kernel module if it is loaded, and load it with ``parameters`` (name=value).

    rmmod leaves the modules that it depends on, and their parameters; modprobe -r would not.
    Raises CommandError.
    """
    if site.tree.exists(f"/sys/module/{module}/initstate"):
        _run_command(site, ["rmmod", module])
    _run_command(site, ["modprobe", module, *parameters])


def program(tree: Tree, name: str) -> Path:
    """Return the path of the program ``name`` in the tree. Raises CommandError."""
    for place in (*_SBIN, *os.get_exec_path()):
        path = tree.path(f"{place}/{name}").absolute()
        if os.access(path, os.X_OK) and not path.is_dir():
            return path
    raise CommandError(f"there is no program {name} in {tree.root}")
