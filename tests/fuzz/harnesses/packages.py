"""kernels/offers.py: the lists of a Debian archive, and the kernels that they offer."""

from fuzz.harness import Harness
from kvmtest.errors import UsageError
from kvmtest.kernels.offers import build_kit, default_offer, find_offer, offers, parse_packages


def stanza(name: str, version: str, depends: str = "") -> str:
    return (
        f"Package: {name}\nVersion: {version}\nDepends: {depends}\n"
        f"SHA256: {'0' * 64}\nSize: 1000\nFilename: pool/{name}.deb\nDescription: a\n b\n\n"
    )


LIST = (
    stanza("linux-image-6.12.7-amd64", "6.12.7-1", "linux-base (>= 4), a | b")
    + stanza("linux-image-6.1.0-47-amd64", "6.1.170-3")
    + stanza("linux-headers-6.12.7-amd64", "6.12.7-1", "linux-headers-6.12.7-common, gcc-12, "
             "linux-kbuild-6.12")
    + stanza("linux-headers-6.12.7-common", "6.12.7-1")
    + stanza("linux-kbuild-6.12", "6.12.9-1~bpo12+1")
    + stanza("linux-source-6.12", "6.12.7-1")
)  # fmt: skip


def parse(data: bytes) -> None:
    packages = parse_packages(data, "bookworm", "debian")
    on_offer = offers(packages)
    offer = default_offer("6.12", on_offer, "bookworm")
    find_offer("6.1", on_offer)
    build_kit(offer, packages)


HARNESS = Harness(parse=parse, seeds=(LIST.encode(),), refusals=(UsageError,))
