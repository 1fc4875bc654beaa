"""Packages of kernels
===================

Which .debs make up a kernel: what each is by its control file, at Debian, Ubuntu and Proxmox, where
the others are, and in words why one is none. Debian and Proxmox have image and modules in one
package, Ubuntu in two, and Debian since 6.19 in three.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kvmtest.errors import UsageError
from kvmtest.kernels import deb, files
from kvmtest.kernels.deb import Control

__all__ = ["Part", "beside", "in_folder", "is_package", "kernels_in", "lacking", "named"]

_MAGIC = b"!<arch>\ndebian-binary"
_ARCHITECTURES = ("amd64", "all")

# linux-binary-V has the image where linux-image-V has nothing; linux-base-V the list of those
# modules that are built in. Proxmox's and some images say whether they are signed.
_CARRIER = re.compile(
    r"(?P<kind>linux-image-unsigned|linux-image|linux-binary|linux-modules-extra|linux-modules"
    r"|linux-base|proxmox-kernel|pve-kernel)-(?P<release>\d.*?)(?:-signed|-unsigned)?"
)
#: The kinds of package that have an image, the one to take first.
_IMAGES = ("linux-binary", "linux-image", "linux-image-unsigned", "proxmox-kernel", "pve-kernel")
_KINDS = (*_IMAGES, "linux-modules", "linux-modules-extra", "linux-base")

# What is in packages that go with a kernel and hold none, by their names.
_OTHERS = (
    (r".+-(?:dbg|dbgsym)", "the debug information of a kernel alone"),
    (r".+-signed-template", "what is to be signed of a kernel"),
    (r"(?:linux|proxmox|pve)-headers-.+|linux-kbuild-.+", "what modules are built with"),
    (r"linux-source.*", "the source of a kernel, which is to be built"),
    (r"linux-(?:config|doc|perf|cpupower|libc-dev|(?:cloud-)?tools|firmware|compiler).*",
     "what goes with a kernel"),
)  # fmt: skip
_KERNEL = re.compile(r"(?:linux-(?:image|binary)|proxmox-(?:default-)?kernel|pve-kernel)\b\S*")


class Part:
    """One .deb that is to be a kernel's, and what its control file says."""

    def __init__(self, path: Path, control: Control) -> None:
        self.path = path
        self.control = control
        found = _CARRIER.fullmatch(control.package)
        #: The kernel's release and the kind of package, both empty where the name says neither.
        self.release = found["release"] if found else ""
        self.kind = found["kind"] if found else ""

    @classmethod
    def of(cls, path: Path) -> "Part":
        """Read the .deb at ``path``; raises EnvironmentUnfit where it is damaged."""
        return cls(path, deb.control(path))

    def __str__(self) -> str:
        return f"{self.control.package} {self.control.version}"

    @property
    def version(self) -> str:
        """The version that the packages of one kernel have in common.

        A package that was built again, such as a signed image, may have a number more: +1, +b1.
        """
        return re.sub(r"\+b?\d+$", "", self.control.version)

    @property
    def key(self) -> tuple[str, str] | None:
        """What the packages of one kernel have in common; None where the name says no release."""
        return (self.release, self.version) if self.release else None

    @property
    def refusal(self) -> str | None:
        """Why this can't be part of a kernel to boot; None where it may be."""
        control = self.control
        if control.architecture not in _ARCHITECTURES:
            return (
                f"{self.path} is {control.package} for {control.architecture}, and kvmtest "
                "is for x86-64: give the package of a kernel for amd64"
            )
        for pattern, contents in _OTHERS:
            if re.fullmatch(pattern, control.package):
                return (
                    f"{self.path} is {control.package}, which has {contents}: give "
                    f"{_kernel_of(control.package)}"
                )
        return None


def is_package(path: Path) -> bool:
    """Tell whether a file is a Debian package by its name, or by its first bytes (deb(5))."""
    if not path.is_file():
        return False
    if path.suffix == ".deb":
        return True
    with files.opened(path, files.PACKAGE) as file:
        return file.read(len(_MAGIC)) == _MAGIC


def named(paths: Iterable[Path]) -> list[Part]:
    """Return the packages that the user names, and those of their kernels that lie beside them.

    Raises UsageError where one is none of a kernel, or of another one than the first.
    """
    parts = [Part.of(path) for path in dict.fromkeys(paths)]
    for part in parts:
        if part.refusal:
            raise UsageError(part.refusal)
    _refuse_several(parts, "the packages that --kernel names are")
    for part in list(parts):
        parts += [other for other in beside(part) if not _is_there(other, parts)]
    return _chosen(parts)


def in_folder(folder: Path) -> list[Part]:
    """Return the packages of the one kernel whose packages are in ``folder``, or none at all.

    What goes with a kernel is passed over. Raises UsageError where there is no kernel but packages,
    or more than one kernel.
    """
    parts = _parts_in(folder)
    kernels = _of_kernels(parts)
    if parts and not kernels:
        raise UsageError(
            parts[0].refusal or f"{folder} has no package of a kernel: {parts[0]} is none"
        )
    _refuse_several(kernels, f"{folder} has packages")
    return _chosen(kernels)


def kernels_in(folder: Path) -> list[list[Part]]:
    """Return the packages in ``folder`` by kernel, without what only goes with one."""
    kernels: dict[object, list[Part]] = {}
    for part in _of_kernels(_parts_in(folder)):
        kernels.setdefault(part.key, []).append(part)
    return [_chosen(parts) for parts in kernels.values()]


def beside(part: Part) -> list[Part]:
    """Return the packages of the same kernel in the same version that lie beside a part."""
    found = []
    for kind in _KINDS:
        for path in sorted(part.path.parent.glob(f"{kind}-{part.release}*_*.deb")):
            other = Part.of(path)
            same = part.key and other.key == part.key
            if same and other.kind == kind != part.kind and not other.refusal:
                found.append(other)
                break
    return found


def lacking(
    parts: Sequence[Part],
    *,
    image: bool,
    modules: bool,
    otherwise: str = "name that package with another --kernel",
) -> str:
    """Say what ``parts`` lack, which hold an ``image``, or ``modules``, but not both.

    ``otherwise`` is what to do but put the package that has it beside them.
    """
    part = parts[0]
    wanted = list(dict.fromkeys(name for each in parts for name in each.control.depends))
    kernels = [name for name in wanted if _KERNEL.fullmatch(name)]
    if not image and not modules:
        own = [name for name in kernels if part.release and _release_of(name) == part.release]
        if kernels and not own:
            return (
                f"{part.path} is {part.control.package}, a metapackage, which has no kernel but "
                f"depends on {' or '.join(kernels)}: give that package"
            )
        if not part.release:
            return (
                f"{part.path} is {part.control.package}, which is no kernel; "
                "give a linux-image .deb"
            )
    what = "matching modules" if image else "kernel image"
    names = [name for name in wanted if name.startswith("linux-modules-")]
    if not image:
        names = [name for name in kernels if name.startswith("linux-binary-")]
        names = names or [f"linux-binary-{part.release}", f"linux-image-{part.release}"]
    names = names[:2] or [f"linux-modules-{part.release}"]
    return (
        f"{part.path} has no {what}: it is one part of its kernel; put "
        f"{' or '.join(names)} {part.control.version} beside it, or {otherwise}"
    )


def _parts_in(folder: Path) -> list[Part]:
    return [Part.of(path) for path in sorted(folder.glob("*.deb")) if path.is_file()]


def _of_kernels(parts: Iterable[Part]) -> list[Part]:
    return [part for part in parts if part.release and not part.refusal]


def _release_of(package: str) -> str:
    found = _CARRIER.fullmatch(package)
    return found["release"] if found else ""


def _kernel_of(package: str) -> str:
    """Return the name of the package whose kernel another package goes with."""
    name = re.sub(r"-(?:dbg|dbgsym|signed-template)$", "", package)
    name = re.sub(r"^(linux|proxmox|pve)-(?:headers|config|tools)-", _image_prefix, name)
    return name if _CARRIER.fullmatch(name) else "its linux-image package"


def _image_prefix(found: "re.Match[str]") -> str:
    return "linux-image-" if found[1] == "linux" else f"{found[1]}-kernel-"


def _refuse_several(parts: Sequence[Part], where: str) -> None:
    releases = sorted({part.release for part in parts if part.release})
    if len(releases) > 1:
        raise UsageError(f"{where} of more than one kernel ({', '.join(releases)}); name one")
    versions = sorted({part.version for part in parts if part.release})
    if len(versions) > 1:
        raise UsageError(
            f"{where} of {releases[0]} in more than one version ({', '.join(versions)}); take all "
            "of one"
        )


def _is_there(other: Part, parts: Iterable[Part]) -> bool:
    return any(part.kind == other.kind and part.release == other.release for part in parts)


def _chosen(parts: Sequence[Part]) -> list[Part]:
    """Return the parts without a second image, which differs in its signature alone."""
    images = [part for part in parts if part.kind in ("linux-image", "linux-image-unsigned")]
    return [part for part in parts if part not in images[1:]]
