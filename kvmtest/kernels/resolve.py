"""Which kernel is meant
=====================

From what ``--kernel`` and ``--modules`` name to the kernel to boot: a package, a tree, an image, or
a version in Debian's archive.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import bzimage, configuration, deb, files, packages
from kvmtest.kernels.archive import Archive
from kvmtest.kernels.banner import upstream_version
from kvmtest.kernels.kernel import NEEDED, BootableKernel
from kvmtest.kernels.modules import (
    MODULE_FOLDERS,
    ModuleFolder,
    NoSuchModule,
    folder_of_release,
    module_name,
)

__all__ = ["resolve"]

_UNPACKED = ("kvm_intel", "kvm_amd", "msr", "efivarfs")
"""The modules that kvmtest takes out of a package, besides those that they depend on."""

_UNPACKED_AT_FIRST = frozenset({*_UNPACKED, "kvm", "irqbypass", "ccp"})
"""All of these in the kernels known so far; a package that needs more is read again."""

_IMAGE = re.compile(r"boot/vmlinuz-[^/]+|(?:usr/)?lib/modules/[^/]+/vmlinuz")

OnStep = Callable[[str], None]


def resolve(
    spec: str | Sequence[str] | None,
    modules: Path | None,
    cache: Cache,
    on_step: OnStep,
    needed: tuple[str, ...] = NEEDED,
) -> BootableKernel:
    """Return the kernel that the user names, for a machine that loads the modules ``needed``.

    ``spec`` is a .deb, an unpacked tree, a folder of .debs, a kernel build tree, a bzImage, a
    version in Debian's archive, or None for the archive's default; several are the .debs of one
    kernel. ``modules`` is a folder whose modules replace the kernel's own, either all of ``needed``
    or only KVM's; or the .deb of modules that belongs to a .deb. ``on_step`` gets a line before
    each step that takes seconds. Raises UsageError where there is no such kernel, EnvironmentUnfit
    where it can't be fetched or read.
    """
    if modules and not modules.exists():
        raise UsageError(f"there is no {modules}; --modules names a folder that holds .ko files")
    names = [spec] if isinstance(spec, str) else list(spec or ())
    if modules and packages.is_package(modules):
        names, modules = [*names, str(modules)], None
    elif modules and not modules.is_dir():
        raise UsageError(
            f"{modules} is not a folder; --modules names a folder that holds .ko files"
        )
    found = replace(_find(names, modules, cache, on_step), needed=needed)
    if modules:
        found = _with_modules(found, modules)
    found.load_order(*found.needed)
    return found


def _find(
    names: Sequence[str], modules: Path | None, cache: Cache, on_step: OnStep
) -> BootableKernel:
    paths = [Path(name) for name in names]
    debs = [path for path in paths if packages.is_package(path)]
    if len(debs) > 1 and len(debs) == len(paths):
        return _packages(packages.named(debs), modules, cache, on_step)
    if len(paths) > 1:
        raise UsageError(
            f"{', '.join(names)}: several kernels; of one kernel several packages (.deb) can be "
            "named, and nothing else"
        )
    if not paths:
        return _from_archive(None, cache, on_step)
    (path,), (name,) = paths, names
    if not name:
        raise UsageError("there is no kernel '': name a file, a folder, or a version such as 6.12")
    if path.is_dir() and _is_build_tree(path):
        return _build_tree(path)
    if path.is_dir():
        parts = [] if _images(path) else packages.in_folder(path)
        return _packages(parts, modules, cache, on_step) if parts else _folder(path)
    if debs:
        return _packages(packages.named(debs), modules, cache, on_step)
    if path.exists():
        return _image(path, modules)
    if re.match(r"\d+(\.|$)", name):
        return _from_archive(name, cache, on_step)
    raise UsageError(
        f"there is no kernel {name!r}: neither a file, nor a folder, nor a version such as "
        "6.12 or 6.1.0-47-amd64"
    )


def _with_modules(kernel: BootableKernel, modules: Path) -> BootableKernel:
    """Return the kernel with all its modules from a folder, or with those of KVM laid over it."""
    whole = replace(kernel, modules=folder_of_release(modules, kernel.release))
    try:
        whole.load_order(*kernel.needed)
    except NoSuchModule:
        if not whole.folder.names:
            raise
        return replace(kernel, over=modules)
    return whole


def _build_tree(root: Path) -> BootableKernel:
    release_file = root / "include/config/kernel.release"
    release = files.text(release_file).strip()
    kernel = _kernel(root / "arch/x86/boot/bzImage", root, f"the build tree {root.absolute()}")
    if kernel.release != release:
        raise EnvironmentUnfit(
            f"{kernel.image} is of {kernel.release}, but {release_file} says {release}: "
            "build it again with make"
        )
    return replace(kernel, options=_options(kernel, root / "include/config/auto.conf"))


def _is_build_tree(root: Path) -> bool:
    return (root / "arch/x86/boot/bzImage").is_file() and (root / "include/config").is_dir()


def _images(root: Path) -> list[Path]:
    """Return the kernel images of an unpacked tree."""
    return sorted(
        path
        for pattern in ("boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz")
        for path in root.glob(pattern)
        if path.is_file()
    )


def _folder(root: Path) -> BootableKernel:
    """Return the one kernel of a user's tree."""
    kernel = _tree(root, f"the folder {root.absolute()}")
    release = kernel.release
    modules = [root / place / release / "config" for place in MODULE_FOLDERS]
    return replace(kernel, options=_options(kernel, root / f"boot/config-{release}", *modules))


def _options(kernel: BootableKernel, *places: Path) -> Mapping[str, str] | None:
    """Return the options that the first of ``places`` has, or the kernel's image; or None."""
    for place in places:
        if place.is_file():
            return configuration.parse(files.text(place))
    # Some machines boot what can't be decompressed here.
    with suppress(EnvironmentUnfit):
        return configuration.embedded(bzimage.vmlinux(files.read(kernel.image, files.IMAGE)))
    return None


def _tree(root: Path, origin: str) -> BootableKernel:
    """Return the one kernel of an unpacked tree."""
    releases = {_release_of(path): path for path in _images(root)}
    if not releases:
        raise EnvironmentUnfit(
            f"{origin} holds no kernel image (boot/vmlinuz-*, lib/modules/*/vmlinuz), no package "
            "of a kernel (.deb), nor is it a kernel build tree with arch/x86/boot/bzImage"
        )
    if len(releases) > 1:
        raise UsageError(
            f"{origin} holds more than one kernel ({', '.join(sorted(releases))}); "
            "name one image, and its modules with --modules"
        )
    (image,) = releases.values()
    return _kernel(image, root, origin)


def _image(path: Path, modules: Path | None) -> BootableKernel:
    if not modules:
        _release_of(path)
        raise UsageError(f"{path} is only an image; name the folder of its modules with --modules")
    origin = f"the image {path.absolute()} with the modules of {modules.absolute()}"
    kernel = _kernel(path, modules, origin)
    return replace(kernel, options=_options(kernel, path.with_name(f"config-{kernel.release}")))


def _packages(
    parts: Sequence[packages.Part], modules: Path | None, cache: Cache, on_step: OnStep
) -> BootableKernel:
    paths = [part.path for part in parts]
    digests = [files.digest(path, files.PACKAGE) for path in paths]
    tree = _unpacked(cache, digests, lambda: paths, on_step)
    found = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()]
    has_image = any(map(_IMAGE.fullmatch, found))
    has_modules = any(map(module_name, found))
    if not has_image or not (has_modules or modules):
        unfit = EnvironmentUnfit if has_image or has_modules else UsageError
        raise unfit(packages.lacking(parts, image=has_image, modules=has_modules))
    return _tree(tree, f"the Debian package {' and '.join(map(str, parts))}")


def _from_archive(spec: str | None, cache: Cache, on_step: OnStep) -> BootableKernel:
    debian = Archive(cache, on_step)
    offer = debian.find(spec)
    digests = [package.sha256 for package in offer.packages]
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        tree = _unpacked(
            cache, digests, lambda: debian.download(offer.packages, Path(folder)), on_step
        )
    origin = f"Debian's {offer.debian_version} of {offer.release} ({', '.join(offer.suites)})"
    return _tree(tree, origin)


def _unpacked(
    cache: Cache, digests: Sequence[str], provide: Callable[[], Sequence[Path]], on_step: OnStep
) -> Path:
    """Return a tree of the image and modules of the packages with these SHA-256 digests."""

    def make(tree: Path) -> None:
        packages = provide()
        on_step(f"unpacking {', '.join(path.name for path in packages)}")
        _unpack(packages, tree, _UNPACKED_AT_FIRST)

    key = json.dumps([sorted(digests), sorted(_UNPACKED_AT_FIRST), _UNPACKED])
    return cache.entry("kernel", hashlib.sha256(key.encode()).hexdigest(), make)


def _unpack(packages: Sequence[Path], tree: Path, names: frozenset[str]) -> None:
    """Take the image, the modules ``names`` and all they depend on into ``tree``."""

    def is_wanted(path: PurePosixPath) -> bool:
        if _IMAGE.fullmatch(str(path)):
            return True
        return str(path).startswith(MODULE_FOLDERS) and (
            path.name == "modules.builtin" or module_name(path.name) in names
        )

    for package in packages:
        deb.unpack(package, tree, is_wanted)
    lacking = _lacking(tree)
    if lacking and lacking not in names:
        _unpack(packages, tree, names | {lacking})


def _lacking(tree: Path) -> str | None:
    """Return a module that those in ``tree`` depend on and that is not there, or None."""
    for image in tree.glob("**/vmlinuz*"):
        release = _release_of(image)
        folder = ModuleFolder(folder_of_release(tree, release), release)
        for name in _UNPACKED:
            try:
                folder.load_order(name)
            except NoSuchModule as error:
                if error.name != name:
                    return error.name
    return None


def _kernel(image: Path, modules: Path, origin: str) -> BootableKernel:
    """Return the kernel of ``image`` and the folder ``modules``."""
    banner = _banner(image)
    release = banner.split()[0]
    version = upstream_version(release, banner)
    return BootableKernel(
        release,
        image,
        folder_of_release(modules, release),
        origin,
        ".".join(map(str, version)) if version else release,
        banner,
    )


def _release_of(image: Path) -> str:
    return _banner(image).split()[0]


def _banner(path: Path) -> str:
    image = files.read(path, files.IMAGE)
    try:
        bzimage.check_architecture(image)
        return bzimage.version(image)
    except bzimage.BzImageError as error:
        raise EnvironmentUnfit(f"{path} can't be booted: {error}") from None
