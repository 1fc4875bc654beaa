"""The kernels of the lab
======================

What ``--kernel`` and ``--modules`` may name, and the kernel that comes of it: an image, modules
that fit it, and a digest of both.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.host.kernel import build_date, upstream_version
from kvmtest.lab import bzimage, deb
from kvmtest.lab.archive import Archive
from kvmtest.lab.cache import Cache
from kvmtest.lab.modules import Module, ModuleFolder, NoSuchModule, module_name

__all__ = ["LabKernel", "resolve"]

_UNPACKED = ("kvm_intel", "kvm_amd", "msr", "efivarfs")
"""What the lab's machines load; with what these depend on."""

_UNPACKED_AT_FIRST = frozenset({*_UNPACKED, "kvm", "irqbypass", "ccp"})
"""What that is in the kernels known so far: a package is read again where it turns out more."""

_NEEDED = ("kvm_intel", "msr")

# linux-image-V carries all; or linux-binary-V (linux-image-V at Ubuntu) the image, linux-modules-V
# the modules, and linux-base-V what is known of those built in.
_PACKAGE = re.compile(r"linux-(?:image-unsigned|image|binary|modules|base)-(\d.*)")
_IMAGE = re.compile(r"boot/vmlinuz-[^/]+|(?:usr/)?lib/modules/[^/]+/vmlinuz")
_MODULES = ("lib/modules", "usr/lib/modules")
"""Where modules are in a tree, each release in a folder of its own."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class LabKernel:
    """A kernel to boot, and its modules."""

    release: str
    """As uname -r gives it."""

    image: Path
    """The bzImage."""

    modules: Path
    """The modules are somewhere below this folder."""

    origin: str
    """Where it comes from, in words."""

    version: str
    """Upstream's, such as 6.1.170."""

    banner: str
    """The version string in the image's header: builder, build, and with Debian the date."""

    needed: tuple[str, ...] = _NEEDED
    """The modules that it is to load, with what these depend on."""

    @cached_property
    def digest(self) -> str:
        """Of the image and of the modules that the lab needs, whatever they are packed in."""
        digest = hashlib.sha256(_read(self.image))
        for name in self.needed:
            for module in self.folder.load_order(name):
                digest.update(hashlib.sha256(module.data).digest())
        return digest.hexdigest()

    @property
    def date(self) -> str | None:
        """Return when it was built, where its banner says so."""
        return build_date(self.banner)

    @property
    def debian_version(self) -> str | None:
        """Return the version of its Debian package, such as 6.1.170-3, where it is Debian's."""
        found = re.search(r"\bDebian (\d\S*)", self.banner)
        return found[1] if found else None

    @cached_property
    def folder(self) -> ModuleFolder:
        """The modules of this release."""
        return ModuleFolder(self.modules, self.release)

    def load_order(self, *names: str) -> list[Module]:
        """Return the modules to load for ``names``, each after those it depends on.

        What is built in is left out. Raises NoSuchModule, EnvironmentUnfit.
        """
        return self.folder.load_order(*names)


def resolve(
    spec: str | None,
    modules: Path | None,
    cache: Cache,
    tell: Tell,
    needed: tuple[str, ...] = _NEEDED,
) -> LabKernel:
    """Return the kernel that the user names, for a machine that loads the modules ``needed``.

    ``spec`` is a .deb, an unpacked tree, a kernel build tree, a bzImage, a version to look for in
    Debian's archive, or None for the default of that. ``modules`` is a folder of modules to take
    instead, or the .deb of modules that belongs to a .deb. Raises UsageError where there is no such
    kernel, EnvironmentUnfit where it can't be had or does not fit the lab.
    """
    if modules and not modules.exists():
        raise UsageError(f"there is no {modules}; --modules names a folder that holds .ko files")
    path = Path(spec) if spec else None
    if path and path.is_dir():
        found = _build_tree(path, modules) if _is_build_tree(path) else _tree(path, modules)
    elif path and path.suffix == ".deb" and path.is_file():
        found = _packages(path, modules, cache, tell)
    elif path and path.is_file():
        found = _image(path, modules)
    elif spec is None or re.match(r"\d+(\.|$)", spec):
        found = _from_archive(spec, modules, cache, tell)
    else:
        raise UsageError(
            f"there is no kernel {spec!r}: neither a file, nor a folder, nor a version such as "
            "6.12 or 6.1.0-47-amd64"
        )
    found = replace(found, needed=needed)
    found.load_order(*found.needed)
    return found


def _build_tree(root: Path, modules: Path | None) -> LabKernel:
    release_file = root / "include/config/kernel.release"
    release = _read(release_file).decode(errors="replace").strip()
    kernel = _kernel(
        root / "arch/x86/boot/bzImage", modules or root, f"the build tree {root.absolute()}"
    )
    if kernel.release != release:
        raise EnvironmentUnfit(
            f"{kernel.image} is of {kernel.release}, but {release_file} says {release}: "
            "build it again with make"
        )
    return kernel


def _is_build_tree(root: Path) -> bool:
    return (root / "arch/x86/boot/bzImage").is_file() and (root / "include/config").is_dir()


def _tree(root: Path, modules: Path | None, origin: str | None = None) -> LabKernel:
    """Return the one kernel of an unpacked tree."""
    images = sorted(
        path
        for pattern in ("boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz")
        for path in root.glob(pattern)
        if path.is_file()
    )
    releases = {_release_of(path): path for path in images}
    origin = origin or f"the folder {root.absolute()}"
    if not releases:
        raise EnvironmentUnfit(
            f"{origin} holds no kernel image (boot/vmlinuz-*, lib/modules/*/vmlinuz), nor is it a "
            "kernel build tree with arch/x86/boot/bzImage"
        )
    if len(releases) > 1:
        raise UsageError(
            f"{origin} holds more than one kernel ({', '.join(sorted(releases))}); "
            "name one image, and its modules with --modules"
        )
    (image,) = releases.values()
    return _kernel(image, modules or root, origin)


def _image(path: Path, modules: Path | None) -> LabKernel:
    if not modules:
        _banner(path, _read(path))
        raise UsageError(f"{path} is an image alone; name the folder of its modules with --modules")
    return _kernel(
        path, modules, f"the image {path.absolute()} with the modules of {modules.absolute()}"
    )


def _packages(path: Path, modules: Path | None, cache: Cache, tell: Tell) -> LabKernel:
    control = deb.control(path)
    package = _PACKAGE.fullmatch(control.package)
    if not package:
        raise UsageError(
            f"{path} is {control.package}, which is no kernel; give a linux-image .deb"
        )
    paths = [path, *_siblings(path, package[1], control)]
    if modules and modules.is_file():
        paths, modules = [*paths, modules], None
    digests = [_digest_of_file(path) for path in paths]
    tree = _unpacked(cache, digests, lambda: paths, tell)
    _check_whole(tree, path, package[1], control)
    return _tree(tree, modules, f"the Debian package {control.package} {control.version}")


def _check_whole(tree: Path, path: Path, release: str, control: deb.Control) -> None:
    """Raise EnvironmentUnfit where ``tree``, unpacked from the .deb at ``path``, is but a part."""
    found = [file for file in tree.rglob("*") if file.is_file()]
    image = any(_IMAGE.fullmatch(str(file.relative_to(tree))) for file in found)
    if image and any(module_name(file.name) for file in found):
        return
    lacking = "modules" if image else "binary"
    raise EnvironmentUnfit(
        f"{path} has no {'matching modules' if image else 'kernel image'}: it is one part of its "
        f"kernel; put linux-{lacking}-{release} {control.version} beside it"
    )


def _siblings(path: Path, release: str, control: deb.Control) -> list[Path]:
    """Return the packages of the same kernel that lie beside the .deb at ``path``."""
    found = []
    for kind in ("binary", "image", "modules", "base"):
        name = f"linux-{kind}-{release}"
        for sibling in sorted(path.parent.glob(f"{name}_*.deb")):
            theirs = deb.control(sibling)
            if theirs.package == name != control.package and theirs.version == control.version:
                found.append(sibling)
                break
    return found


def _from_archive(spec: str | None, modules: Path | None, cache: Cache, tell: Tell) -> LabKernel:
    debian = Archive(cache, tell)
    offer = debian.find(spec)
    digests = [package.sha256 for package in offer.packages]
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        tree = _unpacked(
            cache, digests, lambda: debian.download(offer.packages, Path(folder)), tell
        )
    origin = f"Debian's {offer.debian_version} of {offer.release} ({', '.join(offer.suites)})"
    return _tree(tree, modules, origin)


def _unpacked(
    cache: Cache, digests: Sequence[str], provide: Callable[[], Sequence[Path]], tell: Tell
) -> Path:
    """Return a tree of what the lab needs from the packages with these SHA-256 digests."""

    def make(tree: Path) -> None:
        packages = provide()
        tell(f"unpacking {', '.join(path.name for path in packages)}")
        _unpack(packages, tree, _UNPACKED_AT_FIRST)

    key = json.dumps([sorted(digests), sorted(_UNPACKED_AT_FIRST), _UNPACKED])
    return cache.entry("kernel", hashlib.sha256(key.encode()).hexdigest(), make)


def _unpack(packages: Sequence[Path], tree: Path, names: frozenset[str]) -> None:
    """Take the image, the modules ``names`` and all they depend on into ``tree``."""

    def is_wanted(path: PurePosixPath) -> bool:
        if _IMAGE.fullmatch(str(path)):
            return True
        return str(path).startswith(_MODULES) and (
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
        folder = ModuleFolder(_narrowed(tree, release), release)
        for name in _UNPACKED:
            try:
                folder.load_order(name)
            except NoSuchModule as error:
                if error.name != name:
                    return error.name
    return None


def _kernel(image: Path, modules: Path, origin: str) -> LabKernel:
    """Return the kernel of ``image`` and the folder ``modules``."""
    banner = _banner(image, _read(image))
    release = banner.split()[0]
    version = upstream_version(release, banner)
    return LabKernel(
        release,
        image,
        _narrowed(modules, release),
        origin,
        ".".join(map(str, version)) if version else release,
        banner,
    )


def _narrowed(modules: Path, release: str) -> Path:
    """Return the folder of the release's own where ``modules`` is one for several, or a tree."""
    own = [modules / place / release for place in ("", *_MODULES)]
    return next((folder for folder in own if folder.is_dir()), modules)


def _release_of(image: Path) -> str:
    return _banner(image, _read(image)).split()[0]


def _banner(path: Path, data: bytes) -> str:
    try:
        return bzimage.version(data)
    except bzimage.BzImageError as error:
        raise EnvironmentUnfit(f"{path} can't be booted: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentUnfit(f"can't read {path}: {error.strerror}") from None


def _digest_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EnvironmentUnfit(f"can't read {path}: {error.strerror}") from None
