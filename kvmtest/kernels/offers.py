"""Kernels on offer
================

Which amd64 kernels a Debian archive offers, in which packages, and which of them is meant by what
a user types. Values in, values out; :mod:`kvmtest.kernels.archive` fetches the lists.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from kvmtest.errors import UsageError
from kvmtest.kernels.deb import package_names
from kvmtest.optional_libraries import library

__all__ = [
    "BuildKit",
    "Offer",
    "Package",
    "build_kit",
    "default_offer",
    "find_offer",
    "offers",
    "parse_packages",
]

_RELATED = re.compile(
    rb"Package: linux-(?:image|binary|modules|base|headers|kbuild|source)-\d\S*\n"
)
# Debian's policy manual, section 5.6.12.
_VERSION = re.compile(r"(?:\d+:)?\d[A-Za-z0-9.+~-]*", re.ASCII)
_SIZE = re.compile(r"\d{1,15}", re.ASCII)
_RELEASE = re.compile(r"\d\S*-amd64")
_OTHER_FLAVOURS = re.compile(r"-(?:rt|cloud)-")


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one binary package."""

    name: str
    version: str
    sha256: str
    size: int
    """Of the .deb, in bytes."""

    depends: str
    suites: tuple[str, ...]
    urls: tuple[str, ...]
    """Where the .deb is."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One kernel on offer."""

    release: str
    """As uname -r gives it."""

    version: str
    """Upstream's, such as 6.12.117."""

    debian_version: str
    """The packages' version, such as 6.12.117-1~deb12u1."""

    packages: tuple[Package, ...]
    """What carries the image, the modules and the list of those built in."""

    suites: tuple[str, ...]

    @property
    def size(self) -> int:
        """Return the bytes to download."""
        return sum(package.size for package in self.packages)


@dataclass(frozen=True, slots=True)
class BuildKit:
    """What builds modules for one kernel: its headers, and the source that it was built from."""

    headers: tuple[Package, ...]
    """linux-headers-V-amd64, linux-headers-V-common, linux-kbuild-V or newer."""

    source: Package
    """linux-source-X.Y, the same version as the kernel."""

    compiler: str
    """The compiler that the headers ask for, such as gcc-12; empty where they ask for none."""


def parse_packages(text: bytes, suite: str, url: str) -> list[Package]:
    """Return the packages of kernels in a file ``Packages`` (deb822(5)) of ``suite``.

    ``url`` is the archive's, which the field Filename is below. A stanza that lacks a field, or
    whose version is none, is left out.
    """
    packages = []
    for stanza in _stanzas(text):
        fields = _fields(stanza)
        if (
            fields.keys() >= {"Package", "Version", "SHA256", "Filename"}
            and _VERSION.fullmatch(fields["Version"])
            and _SIZE.fullmatch(fields.get("Size", ""))
        ):
            packages.append(
                Package(
                    fields["Package"],
                    fields["Version"],
                    fields["SHA256"],
                    int(fields["Size"]),
                    fields.get("Depends", ""),
                    (suite,),
                    (f"{url}/{quote(fields['Filename'])}",),
                )
            )
    return packages


def offers(packages: Iterable[Package]) -> list[Offer]:
    """Return the kernels that ``packages`` make up whole, oldest first.

    Only the plain amd64 flavour: no -rt, -cloud, -dbg, -unsigned, and no package that only depends
    on the newest kernel.
    """
    known = _by_name_and_version(packages)
    found = []
    for (name, version), image in known.items():
        release = name.removeprefix("linux-image-")
        if release == name or not _RELEASE.fullmatch(release) or _OTHER_FLAVOURS.search(release):
            continue
        parts = _parts(image, release, known)
        if parts is not None:
            found.append(Offer(release, _upstream(version), version, parts, parts[0].suites))
    return sorted(found, key=_age)


def find_offer(typed: str, on_offer: Sequence[Offer], codename: str = "") -> Offer:
    """Return the kernel that is meant by a release, a version of either kind, or a prefix of one.

    Of several, the newest; of those that are equally new, the one that the Debian release
    ``codename`` offers. Raises UsageError that names the nearest ones.
    """
    for is_meant in (_is_release, _is_version, _is_prefix):
        meant = [offer for offer in on_offer if is_meant(typed, offer)]
        if meant:
            newest = max(_key(offer.version) for offer in meant)
            candidates = [offer for offer in meant if _key(offer.version) == newest]
            return max(candidates, key=lambda offer: (codename in _codenames(offer), _age(offer)))
    if not on_offer:
        raise UsageError(f"Debian's archive offers no kernel {typed}, nor any other")
    raise UsageError(
        f"Debian's archive offers no kernel {typed}; nearest to it are "
        f"{', '.join(f'{offer.release} ({offer.version})' for offer in _nearest(typed, on_offer))}"
    )


def default_offer(series: str, on_offer: Sequence[Offer], codename: str) -> Offer:
    """Return the newest kernel of ``series`` (such as 6.12) in the Debian release ``codename``.

    Its headers build there. The newest of all where that release offers none, or is not Debian's.
    """
    own = [
        offer for offer in on_offer if codename in _codenames(offer) and _is_prefix(series, offer)
    ]
    return find_offer(series, own or on_offer)


def build_kit(offer: Offer, packages: Iterable[Package]) -> BuildKit:
    """Return what builds modules for ``offer``; raises UsageError where it is no longer offered."""
    known = _by_name_and_version(packages)
    version = offer.debian_version
    headers = _exactly(f"linux-headers-{offer.release}", offer, known)
    names = package_names(headers.depends)
    common = [_exactly(name, offer, known) for name in names if name.endswith("-common")]
    tools = [
        known.get((name, version)) or _newer(name, headers, known)
        for name in names
        if name.startswith("linux-kbuild-")
    ]
    compilers = [found[0] for name in names if (found := re.search(r"gcc-\d+", name))]
    series = re.match(r"\d+\.\d+", offer.version)
    source = _exactly(f"linux-source-{series[0] if series else offer.version}", offer, known)
    return BuildKit((headers, *common, *tools), source, compilers[0] if compilers else "")


def _exactly(name: str, offer: Offer, known: Mapping[tuple[str, str], Package]) -> Package:
    package = known.get((name, offer.debian_version))
    if not package:
        raise _gone(name, offer.debian_version)
    return package


def _newer(name: str, headers: Package, known: Mapping[tuple[str, str], Package]) -> Package:
    """Return the oldest tools that the headers take (>=) and that run where the headers belong."""
    releases = _codenames(headers)
    fit = [
        package
        for package in known.values()
        if package.name == name
        and _codenames(package) & releases
        and _ordered(package.version) > _ordered(headers.version)
    ]
    if not fit:
        raise _gone(name, headers.version)
    return min(fit, key=lambda package: _ordered(package.version))


def _gone(name: str, version: str) -> UsageError:
    return UsageError(
        f"modules for this kernel can't be built: Debian's archive no longer offers {name} "
        f"{version}; take a newer kernel"
    )


def _stanzas(text: bytes) -> Iterator[str]:
    """Give the stanzas of kernel packages; there are 60,000 others in a list."""
    for start in _RELATED.finditer(text):
        if start.start() and text[start.start() - 2 : start.start()] != b"\n\n":
            continue
        end = text.find(b"\n\n", start.start())
        yield text[start.start() : end if end >= 0 else len(text)].decode(errors="replace")


def _fields(stanza: str) -> dict[str, str]:
    return {
        name: value.strip()
        for name, value in re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
    }


def _by_name_and_version(packages: Iterable[Package]) -> dict[tuple[str, str], Package]:
    """Return each package once, with all suites that offer it and all its places."""
    known: dict[tuple[str, str], Package] = {}
    for package in packages:
        key = package.name, package.version
        other = known.get(key)
        known[key] = _merged(other, package) if other else package
    return known


def _merged(one: Package, other: Package) -> Package:
    return replace(
        one,
        suites=tuple(dict.fromkeys(one.suites + other.suites)),
        urls=tuple(dict.fromkeys(one.urls + other.urls)),
    )


def _parts(
    image: Package, release: str, known: dict[tuple[str, str], Package]
) -> tuple[Package, ...] | None:
    """Return the packages that carry the kernel of ``image``, or None where one is not offered."""
    names = package_names(image.depends)
    # linux-image-6.12-amd64 is empty and depends on the newest linux-image-6.12.…-amd64.
    if any(name.startswith("linux-image-") for name in names):
        return None
    split = [f"linux-{kind}-{release}" for kind in ("binary", "modules")]
    carriers = [known.get((name, image.version)) for name in split if name in names] or [image]
    # The list of modules that are built in; without it, those that are none are found all the same.
    base = known.get((f"linux-base-{release}", image.version))
    parts = tuple(package for package in (*carriers, base) if package)
    return parts if all(carriers) else None


def _upstream(debian_version: str) -> str:
    """Return 6.12.117 of 6.12.117-1~deb12u1 (deb-version(7): [epoch:]upstream[-revision])."""
    return re.sub(r"^\d+:|-[^-]*$", "", debian_version)


def _key(version: str) -> tuple[int, ...]:
    """Return what upstream versions are ordered by."""
    return tuple(map(int, re.findall(r"\d+", version)))


def _ordered(debian_version: str) -> Any:
    """Return what Debian's versions are ordered by (deb-version(7))."""
    return library("debian.debian_support", "ordering Debian's versions").Version(debian_version)


def _age(offer: Offer) -> tuple[tuple[int, ...], Any, tuple[int, ...], str]:
    ordered = _ordered(offer.debian_version)
    return _key(offer.version), ordered, _key(offer.release), offer.release


def _codenames(of: Offer | Package) -> set[str]:
    """Return the Debian releases that offer it: bookworm for bookworm-security and so on."""
    return {suite.split("-")[0] for suite in of.suites}


def _is_release(typed: str, offer: Offer) -> bool:
    return offer.release in (typed, f"{typed}-amd64")


def _is_version(typed: str, offer: Offer) -> bool:
    return typed in (offer.version, offer.debian_version)


def _is_prefix(typed: str, offer: Offer) -> bool:
    """Tell whether ``typed`` begins a version and ends where a number of it ends."""
    return any(
        name.startswith(typed) and not name[len(typed) : len(typed) + 1].isdecimal()
        for name in (offer.version, offer.release)
    )


def _nearest(typed: str, on_offer: Sequence[Offer], count: int = 4) -> Sequence[Offer]:
    """Return the offers around the place where ``typed`` would be."""
    wanted = _key(typed)
    below = sum(_key(offer.version) < wanted for offer in on_offer)
    start = max(0, min(below - count // 2, len(on_offer) - count))
    return on_offer[start : start + count]
