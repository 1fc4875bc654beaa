"""Installed kernels
=================

Which kernels are in a tree (a machine's root, unpacked packages, a build), where their files are,
and what parts of KVM these hold.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import banner, bzimage, files
from kvmtest.kernels.compression import Corrupt, decompress, name_of
from kvmtest.kernels.elf import ElfError, machine_name, reading, section
from kvmtest.kernels.modules import (
    DEPENDENCIES,
    MODULE_FOLDERS,
    Module,
    builtin_names,
    module_name,
    parse_modinfo,
    parse_module,
)
from kvmtest.kernels.parts import MODULES, VMLINUX, KernelParts

__all__ = ["IMAGE_FILE", "Installed", "built", "of_image", "of_module", "under"]

#: A kernel's image by its path below a root; the one group that matches names the kernel.
IMAGE_FILE = re.compile(
    r"boot/vmlinuz-([^/]+)"
    r"|(?:usr/)?lib/modules/([^/]+)/vmlinuz"
    r"|boot/vmlinux-([^/]+?)(?:\.(?:xz|gz|zst))?"
    r"|(?:usr/)?lib/modules/([^/]+)/vmlinux(?:\.(?:xz|gz|zst))?"
)
# Where these are, the one to take first. openSUSE has a vmlinux.
_IMAGE_GLOBS = (
    "boot/vmlinuz-*",
    *(f"{folder}/*/vmlinuz" for folder in MODULE_FOLDERS),
    "boot/vmlinux-*",
    *(f"{folder}/*/vmlinux*" for folder in MODULE_FOLDERS),
)
# The images of a build tree, and what says its release.
_BUILT_IMAGES = ("arch/x86/boot/bzImage", "vmlinux")
_BUILT_RELEASE = "include/config/kernel.release"
_KVM_FOLDER = "arch/x86/kvm"

_BANNER = re.compile(rb"Linux version (\d[^\0\n]{0,500})")
# CONFIG_VERSION_SIGNATURE of Ubuntu's kernels, which /proc/version_signature shows.
_SIGNATURE = re.compile(rb"\0(Ubuntu \d[\w.+~-]{1,80} \d+\.\d+\.\d+)[\0\n]")


@dataclass(frozen=True)
class Installed:
    """Where the files of one kernel are."""

    release: str
    image: Path | None = None
    """A bzImage, or a vmlinux that may be compressed."""

    modules: Mapping[str, Path] = field(default_factory=dict)
    """KVM's modules, by the names of MODULES."""

    builtin: frozenset[str] = frozenset()
    """KVM's modules that are built into the image."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (*([self.image] if self.image else []), *self.modules.values())

    def parts(self, name: str, origin: str, package: str = "") -> KernelParts:
        """Read them; what can't be read is a line of ``lacks``."""
        # What is in the package or the release is less than the image says.
        version = banner.upstream_version(package.rpartition(" ")[2] or self.release, "")
        parts = KernelParts(
            name, origin, self.release, version, package=package, builtin=self.builtin
        )
        if self.image:
            parts = _with_image(parts, self.image)
        for module, path in self.modules.items():
            parts = _with_module(parts, module, path)
        return parts


def under(root: Path) -> list[Installed]:
    """Return the kernels in a tree, by release.

    ``root`` is a machine's root, a folder /lib/modules/RELEASE, a build tree, or any folder of
    KVM's modules.
    """
    found = _in_root(root)
    if found:
        return found
    if root.parent.name == "modules" and (root / "kernel").is_dir():
        return [_of_release(root.name, root, _root_of(root))]
    return built(root) or _scattered(root)


def built(root: Path) -> list[Installed]:
    """Return the kernel that was built in a tree, or the modules of KVM that were built alone."""
    if (root / _BUILT_RELEASE).is_file():
        return [_built(root)]
    return _scattered(root / _KVM_FOLDER)


def of_image(path: Path) -> Installed:
    """Return the kernel whose image is ``path``, with its modules where they are installed.

    Raises EnvironmentUnfit where it is none for x86-64.
    """
    release = _release(_vmlinux(path)[1])
    parent = path.absolute().parent
    folders = [parent]
    if parent.name == "boot":
        folders += [parent.parent / place / release for place in MODULE_FOLDERS]
    for folder in folders:
        if release and folder.name == release and folder.is_dir():
            return replace(_of_release(release, folder, None), image=path)
    for root in parent, *parent.parents:
        is_built = path.absolute() in (root / name for name in _BUILT_IMAGES)
        if is_built and (root / _BUILT_RELEASE).is_file():
            return replace(_built(root), release=release, image=path)
    return Installed(release, path)


def of_module(path: Path) -> Installed:
    """Return the kernel that a module of KVM is built for, with what lies where it belongs.

    Raises EnvironmentUnfit where it is damaged or no module of KVM.
    """
    name, release = _identity(path)
    if name not in MODULES:
        raise EnvironmentUnfit(
            f"{path} is the module {name or 'of no name'}; name {', '.join(MODULES)} or a kernel"
        )
    folder = path.absolute().parent
    modules = {name: path}
    for other in sorted(folder.iterdir()):
        if module_name(other.name) in MODULES and other.is_file():
            found, of = _identity(other)
            if of == release:
                modules.setdefault(found, other)
    ordered = {each: modules[each] for each in MODULES if each in modules}
    return Installed(release, _image_of(folder, release), ordered)


def _image_of(folder: Path, release: str) -> Path | None:
    """Return the image of the kernel of which ``folder`` has modules, or None."""
    for name in (f"vmlinuz-{release}", "vmlinuz", "bzImage", "vmlinux"):
        path = folder / name
        if path.is_file() and _release_of(path) == release:
            return path
    for above in (folder, *folder.parents):
        if above.name == release:
            return _image(release, above, _root_of(above))
        if (above / _BUILT_RELEASE).is_file():
            return _built(above).image
    return None


def _release_of(image: Path) -> str:
    """Return the release that an image says it is; "" where it can't be read."""
    try:
        return _release(_vmlinux(image)[1])
    except EnvironmentUnfit:
        return ""


def _release(said: str) -> str:
    """Return the release in a version string, which may be empty."""
    return said.partition(" ")[0]


def _in_root(root: Path) -> list[Installed]:
    folders = {
        folder.name: folder
        for place in MODULE_FOLDERS
        for folder in sorted((root / place).glob("*"))
        if any((folder / each).exists() for each in ("kernel", "modules.builtin", DEPENDENCIES))
    }
    releases: dict[str, Path] = {}
    for pattern in _IMAGE_GLOBS:
        for path in sorted(root.glob(pattern)):
            found = IMAGE_FILE.fullmatch(str(path.relative_to(root)))
            if found and path.is_file():
                name = next(filter(None, found.groups()))
                # Not everyone names images by their release: Arch Linux has vmlinuz-linux.
                release = name if name in folders else _release_of(path) or name
                releases.setdefault(release, path)
    return [
        replace(_of_release(release, folders[release], None), image=releases.get(release))
        if release in folders
        else Installed(release, releases[release])
        for release in sorted({*releases, *folders}, key=_sort_key)
    ]


def _of_release(release: str, folder: Path, root: Path | None) -> Installed:
    """Return the kernel whose modules are in ``folder``."""
    listed = folder / "modules.builtin"
    names = builtin_names(listed) if listed.is_file() else set()
    return Installed(
        release,
        _image(release, folder, root),
        _chosen(folder),
        frozenset(names.intersection(MODULES)),
    )


def _image(release: str, folder: Path, root: Path | None) -> Path | None:
    """Return the image of a release, in the folder of its modules or in /boot."""
    places = [folder / "vmlinuz", folder / "vmlinux"]
    if root:
        places += [root / f"boot/vmlinuz-{release}", root / f"boot/vmlinux-{release}"]
    return next((path for path in places if path.is_file()), None)


def _built(root: Path) -> Installed:
    """Return the kernel of a build tree."""
    release = files.text(root / _BUILT_RELEASE).strip()
    image = next((root / name for name in _BUILT_IMAGES if (root / name).is_file()), None)
    return Installed(release, image, _chosen(root / _KVM_FOLDER))


def _scattered(root: Path) -> list[Installed]:
    """Return the kernels that the modules of KVM anywhere below ``root`` are built for."""
    releases: dict[str, dict[str, Path]] = {}
    for path in _kvm_files(root):
        name, release = _identity(path)
        releases.setdefault(release, {}).setdefault(name, path)
    return [
        Installed(
            release, _image_of(next(iter(modules.values())).absolute().parent, release), modules
        )
        for release, modules in sorted(releases.items())
    ]


def _chosen(folder: Path) -> dict[str, Path]:
    """Return KVM's modules below a folder: of several of a name, the one that modprobe takes."""
    listed = folder / DEPENDENCIES
    text = files.text(listed) if listed.is_file() else ""
    taken = {folder / line.partition(":")[0] for line in text.splitlines()}
    found: dict[str, Path] = {}
    for path in sorted(_kvm_files(folder), key=lambda path: (path not in taken, path)):
        name = module_name(path.name)
        if name:
            found.setdefault(name, path)
    return {name: found[name] for name in MODULES if name in found}


def _kvm_files(folder: Path) -> Iterator[Path]:
    for inner, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(inner, name)
            if module_name(name) in MODULES and path.is_file():
                yield path


def _root_of(folder: Path) -> Path:
    """Return the root that has lib/modules/RELEASE or usr/lib/modules/RELEASE."""
    root = folder.absolute().parents[2]
    return root.parent if root.name == "usr" else root


def _sort_key(release: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"\b", release)]


def _with_image(parts: KernelParts, path: Path) -> KernelParts:
    try:
        elf, said = _vmlinux(path)
        types = section(elf, ".BTF")
    except EnvironmentUnfit as error:
        return parts.lacking(str(error))
    release = _release(said) or parts.release
    if release != (parts.release or release):
        return parts.lacking(f"{path} is of {release}, not of {parts.release}: it was left out")
    found = _SIGNATURE.search(elf)
    version = banner.upstream_version(release, said, found[1].decode() if found else "")
    parts = replace(parts, release=release, version=version or parts.version)
    parts = parts.with_part(VMLINUX, elf, types)
    return parts if types else parts.lacking(f"{path} has no types (CONFIG_DEBUG_INFO_BTF)")


def _with_module(parts: KernelParts, name: str, path: Path) -> KernelParts:
    try:
        module, release = _module(path)
        if parts.release and release != parts.release:
            raise EnvironmentUnfit(
                f"{path} is built for {release}, not for {parts.release}: it was left out"
            )
        types, base = (section(module.unsigned, each) for each in (".BTF", ".BTF.base"))
    except EnvironmentUnfit as error:
        return parts.lacking(str(error))
    return parts.with_part(name, module.unsigned, types, base)


def _vmlinux(path: Path) -> tuple[bytes, str]:
    """Return the ELF file of an image, and its version string; raises EnvironmentUnfit."""
    data = files.read(path, files.IMAGE)
    try:
        if bzimage.is_bzimage(data):
            bzimage.check_architecture(data)
            return bzimage.vmlinux(data), bzimage.version(data)
        if not name_of(data):
            bzimage.check_architecture(data)  # Says what it is.
        elf = decompress(data)
        with reading(elf) as file:
            machine = file["e_machine"]
        if machine != "EM_X86_64":
            raise ElfError(f"it is built for {machine_name(machine)}, kvmtest is for x86-64")
    except EnvironmentUnfit as error:
        raise EnvironmentUnfit(f"{path} can't be examined: {error}") from None
    found = _BANNER.search(elf)
    return elf, found[1].decode(errors="replace") if found else ""


def _identity(path: Path) -> tuple[str, str]:
    """Return a module's name, as it says itself, and the release that it is built for."""
    module, release = _module(path)
    name = parse_modinfo(section(module.unsigned, ".modinfo")).get("name")
    return name or module.name, release


def _module(path: Path) -> tuple[Module, str]:
    try:
        return parse_module(module_name(path.name) or "", files.read(path, files.MODULE))
    except (Corrupt, ElfError) as error:
        raise EnvironmentUnfit(f"the module {path} can't be examined: {error}") from None
