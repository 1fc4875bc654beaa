"""Kernels to examine
==================

From what ``kvmtest kernel inspect`` names to the parts of the kernels in it: packages, trees,
images, modules and source. Nothing is installed, and nothing of a kernel is run.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import deb, files, installed, packages, rpm, rpm_packages, source, tarball
from kvmtest.kernels.banner import upstream_version
from kvmtest.kernels.compression import stream
from kvmtest.kernels.installed import IMAGE_FILE, Installed
from kvmtest.kernels.modules import DEPENDENCIES, MODULE_FOLDERS, module_name
from kvmtest.kernels.parts import MODULES, KernelParts

__all__ = ["grouped", "opened"]

_ELF, _RELOCATABLE = b"\x7fELF", 1
_HEAD = 1024
_SOURCE_ARCHIVE = re.compile(r"usr/src/(?:[^/]+/)?linux-source-[^/]+\.tar(?:\.\w+)?")

Wanted = Callable[[PurePosixPath], bool]


class _Lacking(Protocol):
    """Says what packages lack, and where that is."""

    def __call__(self, *, image: bool, modules: bool) -> str: ...


def grouped(names: Sequence[str]) -> list[list[str]]:
    """Return the targets in their order, those that are packages of one kernel together."""
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(_kernel_of(Path(name)) or name, []).append(name)
    return list(groups.values())


def opened(names: Sequence[str]) -> Iterator[KernelParts]:
    """Give the kernels in one target; several names are packages of one kernel.

    Raises UsageError where there is no kernel in it, EnvironmentUnfit where it can't be read.
    """
    paths = [Path(name) for name in names]
    path, name = paths[0], names[0]
    if not name:
        raise UsageError("there is no target '': name a package, a folder, a file or a repository")
    if path.is_dir():
        yield from _folder(path, name)
    elif packages.is_package(path):
        yield from _debs(paths, name)
    elif path.exists():
        yield from _file(paths, name)
    else:
        yield _revision(name)


def _kernel_of(path: Path) -> object:
    """Return what the packages of one kernel have in common; None for anything else."""
    # A file that can't be read is a group of its own: ``opened`` reads the same, and raises.
    with suppress(EnvironmentUnfit):
        if packages.is_package(path):
            return packages.Part.of(path).key
        if path.is_file() and _head(path).startswith(rpm.MAGIC):
            return rpm_packages.Part(path, rpm.tags(path)).key
    return None


def _folder(path: Path, name: str) -> Iterator[KernelParts]:
    if source.is_tree(path):
        yield _source_tree(path, name)
        return
    is_empty = True
    for parts in _in_folder(path, name):
        is_empty = False
        yield parts
    if not is_empty:
        return
    if not source.is_repository(path):
        raise UsageError(
            f"{path.absolute()} holds no kernel: neither an image (boot/vmlinuz-*), nor a module "
            "of KVM (kvm.ko), nor a package (.deb, .rpm), nor a kernel's source"
        )
    yield _of_source(source.in_git(path, "HEAD"), name, f"the repository {path.absolute()}")


def _in_folder(path: Path, name: str) -> Iterator[KernelParts]:
    for kernel in installed.under(path):
        yield kernel.parts(name, f"the folder {path.absolute()}")
    for debs in packages.kernels_in(path):
        yield from _kernel_in_debs(debs, name)
    for rpms in rpm_packages.in_folder(path):
        yield from _kernel_in_rpms(rpms, name)


def _source_tree(path: Path, name: str) -> KernelParts:
    """Return the source, and what was built of it where that is there."""
    found = source.in_folder(path)
    origin = f"the source tree {path.absolute()}"
    if found.commit:
        origin += f", a work tree on {found.commit}"
    for kernel in installed.built(path):
        built = kernel.parts(name, f"{origin}, and what was built in it")
        return replace(built, source=found.read)
    # Its files may have changed since.
    return _of_source(replace(found, commit=""), name, origin)


def _revision(name: str) -> KernelParts:
    """Return the source at REPOSITORY@REVISION; either may have an @ in it."""
    for at in (found.start() for found in re.finditer("@", name)):
        path, revision = Path(name[:at]), name[at + 1 :]
        if revision and path.is_dir() and source.is_repository(path):
            origin = f"the repository {path.absolute()} at {revision}"
            return _of_source(source.in_git(path, revision), name, origin)
    raise UsageError(
        f"there is no {name}: name a package (.deb, .rpm), a folder, a vmlinuz, a vmlinux, a "
        "kvm.ko, a source tree or tarball, or REPOSITORY@REVISION"
    )


def _of_source(found: source.Source, name: str, origin: str) -> KernelParts:
    version = upstream_version(found.version, "")
    return KernelParts(name, origin, found.version, version, commit=found.commit, source=found.read)


def _file(paths: Sequence[Path], name: str) -> Iterator[KernelParts]:
    path = paths[0]
    head = _head(path)
    if head.startswith(rpm.MAGIC):
        yield from _kernel_in_rpms(rpm_packages.named(paths), name)
    elif tarball.is_tar(head):
        yield from _tarball(path, name)
    elif head.startswith(_ELF) and int.from_bytes(head[16:18], "little") == _RELOCATABLE:
        yield _of_file(path, installed.of_module(path), name, "module")
    else:
        yield _of_file(path, installed.of_image(path), name, "image")


def _of_file(path: Path, kernel: Installed, name: str, kind: str) -> KernelParts:
    others = [other.name for other in kernel.files if other.absolute() != path.absolute()]
    taken = f" with {', '.join(others)}" if others else ""
    return kernel.parts(name, f"the {kind} {path.absolute()}{taken}")


def _head(path: Path) -> bytes:
    """Return how a file begins, decompressed; raises EnvironmentUnfit where it can't be read."""
    with files.opened(path, files.PACKAGE) as file:
        try:
            head: bytes = stream(file).read(_HEAD)
        except EnvironmentUnfit:
            raise
        except Exception:  # Each library has errors of its own; what is wrong is told later.
            file.seek(0)
            head = file.read(_HEAD)
    return head


def _tarball(path: Path, name: str) -> Iterator[KernelParts]:
    found = source.in_tarball(path)
    if found:
        yield _of_source(found, name, f"the tarball {path.absolute()}")
        return

    def unpack(root: Path) -> None:
        tarball.unpack(path, root, _is_wanted)

    def lacking(*, image: bool, modules: bool) -> str:
        has = "no modules of KVM" if image else "no kernel image" if modules else "no kernel"
        return f"{path} has {has}, nor a kernel's source; name the package or tarball that has"

    yield from _unpacked(unpack, name, f"the archive {path.absolute()}", "", lacking)


def _debs(paths: Sequence[Path], name: str) -> Iterator[KernelParts]:
    first = packages.Part.of(paths[0])
    if first.control.package.startswith("linux-source"):
        yield _source_package(first, name)
    else:
        yield from _kernel_in_debs(packages.named(paths), name)


def _source_package(part: packages.Part, name: str) -> KernelParts:
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        deb.unpack(part.path, Path(folder), lambda n: bool(_SOURCE_ARCHIVE.fullmatch(str(n))))
        for path in Path(folder).rglob("*.tar*"):
            found = source.in_tarball(path)
            if found:
                parts = _of_source(found, name, f"the package {part.path.absolute()}")
                return replace(parts, package=str(part))
    raise UsageError(f"{part.path} has no source in it; give the linux-source package of a version")


def _kernel_in_debs(parts: Sequence[packages.Part], name: str) -> Iterator[KernelParts]:
    lacking = partial(packages.lacking, parts, otherwise="name both")
    return _kernel_in_packages(parts, name, deb.unpack, lacking)


def _kernel_in_rpms(parts: Sequence[rpm_packages.Part], name: str) -> Iterator[KernelParts]:
    return _kernel_in_packages(parts, name, rpm.unpack, partial(rpm_packages.lacking, parts))


def _kernel_in_packages(
    parts: Sequence[packages.Part] | Sequence[rpm_packages.Part],
    name: str,
    unpack: Callable[[Path, Path, Wanted], None],
    lacking: _Lacking,
) -> Iterator[KernelParts]:
    def unpack_all(root: Path) -> None:
        for part in parts:
            unpack(part.path, root, _is_wanted)

    paths = ", ".join(str(part.path.absolute()) for part in parts)
    origin = f"the package{'s' if parts[1:] else ''} {paths}"
    yield from _unpacked(unpack_all, name, origin, ", ".join(map(str, parts)), lacking)


def _unpacked(
    unpack: Callable[[Path], None], name: str, origin: str, package: str, lacking: _Lacking
) -> Iterator[KernelParts]:
    """Give the kernels in what ``unpack`` writes below a folder."""
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        root = Path(folder)
        unpack(root)
        kernels = installed.under(root)
        if not kernels:
            raise UsageError(lacking(image=False, modules=False))
        for kernel in kernels:
            parts = kernel.parts(name, origin, package)
            lacks = tuple(line.replace(f"{root}/", "") for line in parts.lacks)
            parts = replace(parts, lacks=lacks)
            if not kernel.modules and "kvm" not in kernel.builtin:
                parts = parts.lacking(lacking(image=True, modules=False))
            elif not kernel.image:
                parts = parts.lacking(lacking(image=False, modules=True))
            yield parts


def _is_wanted(path: PurePosixPath) -> bool:
    if IMAGE_FILE.fullmatch(str(path)):
        return True
    return str(path).startswith(MODULE_FOLDERS) and (
        path.name in ("modules.builtin", DEPENDENCIES) or module_name(path.name) in MODULES
    )
