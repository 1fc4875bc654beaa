"""Packed kernels
==============

The whole of one kernel in one archive, as it goes to a host: the image, its configuration, and all
its modules. It is made here, of Debian's packages, of other .debs or of a build tree, so that a
host needs neither a network nor a package manager.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kvmtest.cache import Cache
from kvmtest.distribution import install
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import bzimage, deb, files, packages
from kvmtest.kernels.archive import Archive

from .host import KernelKind, PlannedKernel

__all__ = ["CONFIG", "IMAGE", "MODULES", "RELEASE", "PackedKernel", "pack"]

#: What the archive has in it: the image, its configuration where that is known, and the folder of
#: its modules where it has any.
IMAGE, CONFIG, MODULES = "vmlinuz", "config", "modules"

_ARCHIVE, _FACTS = "kernel.tar.gz", "kernel.json"
_IMAGE_FILE = re.compile(r"boot/vmlinuz-[^/]+|(?:usr/)?lib/modules/[^/]+/vmlinuz")
_CONFIG_FILE = re.compile(r"boot/config-[^/]+|(?:usr/)?lib/modules/[^/]+/config")
_MODULE_FILE = re.compile(r"(?:usr/)?lib/modules/[^/]+/.+")
# What lies beside modules: links to where they were built, and the image.
_NO_MODULES = ("build", "source", IMAGE, CONFIG)
#: What a kernel's release may be: it names folders on a host.
RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,63}", re.ASCII)
# Modules in Debian's packages of old kernels are not compressed: 400 MB, here 90 in 8 s.
_LEVEL = 1

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PackedKernel:
    """One kernel as a gzipped tar archive of IMAGE and MODULES."""

    release: str
    """As uname -r gives it."""

    banner: str
    """The version string in the image's header; what uname -v gives is in it."""

    archive: Path
    digest: str
    """SHA-256 of what it was made of."""

    image_digest: str
    """SHA-256 of the image."""

    has_modules: bool


def pack(kernel: PlannedKernel, cache: Cache, on_step: OnStep) -> PackedKernel:
    """Return the kernel that a plan names, packed; an entry of the cache holds it.

    A build tree is packed each time it is asked for, as nothing tells whether it was built again.
    ``on_step`` gets a line before each step that takes seconds. Raises UsageError where there is no
    such kernel, EnvironmentUnfit where it can't be fetched or read.
    """
    if kernel.kind is KernelKind.TREE:
        (root,) = kernel.paths
        return _of_tree(root, cache, on_step)
    if kernel.kind is KernelKind.DEB:
        paths = [part.path for part in packages.named(kernel.paths)]
        digests = [files.digest(path, files.PACKAGE) for path in paths]
        return _of_packages(digests, lambda _: paths, cache, on_step)
    if kernel.kind is KernelKind.DEBIAN:
        debian = Archive(cache, on_step)
        offer = debian.find(kernel.version)
        digests = [package.sha256 for package in offer.packages]
        return _of_packages(
            digests, lambda folder: debian.download(offer.packages, folder), cache, on_step
        )
    raise ValueError(f"{kernel.name}: a host's own kernel is not brought to it")


def _of_packages(
    digests: Sequence[str],
    provide: Callable[[Path], Sequence[Path]],
    cache: Cache,
    on_step: OnStep,
) -> PackedKernel:
    digest = hashlib.sha256(json.dumps(sorted(digests)).encode()).hexdigest()

    def make(entry: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="kvmtest-", dir=entry) as folder:
            tree = Path(folder, "tree")
            downloads = Path(folder, "packages")
            downloads.mkdir()
            for path in provide(downloads):
                on_step(f"unpacking {path.name}")
                deb.unpack(path, tree, _is_wanted)
            images = _found(_IMAGE_FILE, tree)
            if len(images) != 1:
                raise UsageError(
                    f"these packages have {len(images)} kernel images, and one is wanted; name "
                    "those of one kernel"
                )
            configs = _found(_CONFIG_FILE, tree)
            parts = _Parts(images[0], configs[0] if configs else None, _modules_below(tree))
            _pack(parts, entry, on_step)

    return _entry(cache.entry("packed-kernel", digest, make), digest)


def _of_tree(root: Path, cache: Cache, on_step: OnStep) -> PackedKernel:
    image = root / "arch/x86/boot/bzImage"
    if not image.is_file():
        raise UsageError(f"{root} has no arch/x86/boot/bzImage; name a kernel tree that is built")
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        made = Path(folder)
        on_step(f"installing the modules of {root}")
        _install_modules(root, made / "tree")
        _pack(_Parts(image, root / ".config", _modules_below(made / "tree")), made, on_step)
        digest = files.digest(made / _ARCHIVE, files.PACKAGE)

        def take(entry: Path) -> None:
            for name in (_ARCHIVE, _FACTS):
                shutil.copyfile(made / name, entry / name)

        return _entry(cache.entry("packed-kernel", digest, take), digest)


def _install_modules(root: Path, tree: Path) -> None:
    """Have the tree install its modules, without debugging information, as INSTALL_MOD_PATH."""
    tree.mkdir()
    if not (root / "modules.order").is_file():
        return
    if shutil.which("make") is None:
        raise EnvironmentUnfit(f"make is missing; {install('make')}")
    command = ["make", "-C", str(root), "modules_install", f"INSTALL_MOD_PATH={tree.absolute()}",
               "INSTALL_MOD_STRIP=1"]  # fmt: skip
    # The variables of a make that called us are not for this one.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    made = subprocess.run(command, env=ours, capture_output=True, text=True, check=False)
    if made.returncode:
        why = (made.stderr.strip() or made.stdout.strip()).splitlines()[-1:]
        raise EnvironmentUnfit(
            f"{root}: make modules_install failed ({' '.join(why)}); run make there"
        )


def _is_wanted(path: PurePosixPath) -> bool:
    return any(
        pattern.fullmatch(str(path)) for pattern in (_IMAGE_FILE, _CONFIG_FILE, _MODULE_FILE)
    )


def _found(pattern: "re.Pattern[str]", tree: Path) -> list[Path]:
    return [path for path in tree.rglob("*") if pattern.fullmatch(str(path.relative_to(tree)))]


def _modules_below(tree: Path) -> Path | None:
    """Return the folder of a release's modules; None of a kernel that has none."""
    found = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
    if len(found) > 1:
        raise UsageError(f"{', '.join(path.name for path in found)}: modules of several kernels")
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where the parts of a kernel are."""

    image: Path
    config: Path | None
    modules: Path | None


def _pack(parts: _Parts, into: Path, on_step: OnStep) -> None:
    """Write the archive and its facts to a folder."""
    image, modules = parts.image, parts.modules
    content = files.read(image, files.IMAGE)
    bzimage.check_architecture(content)
    banner = bzimage.version(content)
    release = banner.split()[0]
    if not RELEASE.fullmatch(release):
        raise EnvironmentUnfit(f"{image} says that its release is {release!r}; give another kernel")
    if modules and modules.name != release:
        raise UsageError(f"{image} is of {release}, and the modules are of {modules.name}")
    on_step(f"packing {release}")
    if modules:
        _list_dependencies(modules)
    with (
        gzip.GzipFile(into / _ARCHIVE, "wb", _LEVEL, mtime=0) as file,
        tarfile.open(fileobj=file, mode="w|") as archive,
    ):
        archive.add(image, IMAGE, filter=_plain)
        if parts.config and parts.config.is_file():
            archive.add(parts.config, CONFIG, filter=_plain)
        if modules:
            for path in _files_below(modules):
                name = f"{MODULES}/{release}/{path.relative_to(modules)}"
                archive.add(path, name, filter=_plain)
    facts = {
        "release": release,
        "banner": banner,
        "image_digest": hashlib.sha256(content).hexdigest(),
        "has_modules": modules is not None,
    }
    (into / _FACTS).write_text(json.dumps(facts))


def _files_below(modules: Path) -> Iterator[Path]:
    for path in sorted(modules.rglob("*")):
        is_beside = path.relative_to(modules).parts[0] in _NO_MODULES
        if path.is_file() and not path.is_symlink() and not is_beside:
            yield path


def _list_dependencies(modules: Path) -> None:
    """Write modules.dep and the like where depmod(8) is here; a host does it otherwise.

    It decompresses each module, which takes a slow host a minute.
    """
    depmod = shutil.which("depmod", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if depmod and not (modules / "modules.dep").exists():
        base = modules.parents[2]
        subprocess.run([depmod, "-b", base, modules.name], check=False, capture_output=True)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out what tells of this machine: owner, time."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o644
    return member


def _entry(entry: Path, digest: str) -> PackedKernel:
    facts = json.loads((entry / _FACTS).read_text())
    return PackedKernel(archive=entry / _ARCHIVE, digest=digest, **facts)
