"""RPM packages of kernels
=======================

Which .rpms make up a kernel, as Fedora, RHEL and its clones, and openSUSE pack it, and in words why
one is none. Fedora has image and KVM's modules in two packages, kernel-core and
kernel-modules-core; openSUSE in one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmtest.errors import UsageError
from kvmtest.kernels import rpm
from kvmtest.kernels.rpm import Tags

__all__ = ["Part", "in_folder", "lacking", "named"]

# Packages of a kernel's build that hold neither its image nor KVM, by their names.
_OTHERS = re.compile(
    r".+-(?:devel|headers|docs?|html|debuginfo|debuginfo-common.*|debugsource|tools|tools-libs"
    r"|macros|syms|modules-(?:extra|internal|partner)|uki-\w+|extra|optional|livepatch.*|abi-.+"
    r"|selftests.*|srpm-macros|rpm-macros|firmware.*)(?:-matched)?"
)
_ARCHITECTURES = ("x86_64", "noarch")


@dataclass(frozen=True, slots=True)
class Part:
    """One .rpm that is to be a kernel's, and what its header says."""

    path: Path
    tags: Tags

    def __str__(self) -> str:
        return str(self.tags)

    @property
    def key(self) -> object:
        """What the packages of one kernel have in common: version, source and flavour."""
        tags = self.tags
        return tags.source, tags.version, tags.release, tags.architecture, self.flavour

    @property
    def flavour(self) -> str:
        """The name of its kernel, without which part of it this is: kernel, kernel-rt."""
        return re.sub(r"-(?:core|modules|modules-core|base)$", "", self.tags.name)

    @property
    def refusal(self) -> str | None:
        """Why this can't have a kernel's files; None where it may."""
        tags = self.tags
        if not tags.source:
            return (
                f"{self.path} is the source package {tags}, whose patches are not applied: apply "
                "them with rpmbuild -bp, and name the tree"
            )
        if tags.architecture not in _ARCHITECTURES:
            return f"{self.path} is {tags.name} for {tags.architecture}, and kvmtest is for x86-64"
        if not tags.name.startswith("kernel") or _OTHERS.fullmatch(tags.name):
            return (
                f"{self.path} is {tags.name}, which has no kernel: give kernel-core and "
                "kernel-modules-core, or kernel-default"
            )
        return None


def named(paths: Sequence[Path]) -> list[Part]:
    """Return the packages that the user names, and those of the same kernel that lie beside.

    Raises UsageError where one is none of a kernel, EnvironmentUnfit where one is damaged.
    """
    parts = [Part(path, rpm.tags(path)) for path in dict.fromkeys(paths)]
    for part in parts:
        if part.refusal:
            raise UsageError(part.refusal)
    names = {part.tags.name for part in parts}
    beside = [part for part in _may_hold(parts[0].path.parent) if part.key == parts[0].key]
    return [*parts, *(part for part in beside if part.tags.name not in names)]


def in_folder(folder: Path) -> list[list[Part]]:
    """Return the packages in ``folder`` by kernel, without what only goes with one."""
    kernels: dict[object, list[Part]] = {}
    for part in _may_hold(folder):
        kernels.setdefault(part.key, []).append(part)
    return list(kernels.values())


def lacking(parts: Sequence[Part], *, image: bool, modules: bool) -> str:
    """Say what ``parts`` lack, which hold an ``image``, or ``modules``, but not both."""
    part = parts[0]
    if not image and not modules:
        required = part.tags.requires
        core = [name for name in required if re.fullmatch(r"kernel(?:-\w+)*-core\S*", name)]
        which = re.sub(r"-uname-r$", "", core[0]) if core else "kernel-core"
        return (
            f"{part.path} is {part.tags.name}, which has no file of a kernel: give {which} and "
            "kernel-modules-core"
        )
    what = "modules of KVM" if image else "kernel image"
    wanted = f"{part.flavour}-modules-core" if image else f"{part.flavour}-core"
    return (
        f"{part.path} has no {what}: it is one part of its kernel; put {wanted} "
        f"{part.tags.version}-{part.tags.release} beside it, or name both"
    )


def _may_hold(folder: Path) -> Iterator[Part]:
    for path in sorted(folder.glob("kernel*.rpm")):
        if path.is_file():
            part = Part(path, rpm.tags(path))
            if not part.refusal:
                yield part
