"""kvmtest/kernels/offers.py: which kernels the lists offer, and which one is meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmtest.errors import UsageError
from kvmtest.kernels.offers import (
    Offer,
    Package,
    build_kit,
    default_offer,
    find_offer,
    offers,
    parse_packages,
)

pytest.importorskip("debian")


def stanza(name: str, version: str, depends: str = "kmod", **fields: str) -> str:
    lines = {
        "Package": name,
        "Version": version,
        "Installed-Size": "1",
        "Depends": depends,
        "Size": "1000",
        "SHA256": f"{name}-{version}",
        "Filename": f"pool/{name}_{version}.deb",
    } | fields
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def image(release: str, version: str) -> str:
    return stanza(f"linux-image-{release}", version)


def split(
    release: str, version: str, kinds: tuple[str, ...] = ("base", "binary", "modules")
) -> str:
    depends = ", ".join(f"linux-{kind}-{release} (= {version})" for kind in
                        ("base", "binary", "modules"))  # fmt: skip
    stanzas = [stanza(f"linux-image-{release}", version, f"dracut | initramfs-tools, {depends}")]
    stanzas += [stanza(f"linux-{kind}-{release}", version) for kind in kinds]
    return "\n".join(stanzas)


def kit(release: str, version: str, kbuild: str, kbuild_version: str, series: str) -> str:
    common = release.removesuffix("amd64") + "common"
    return "\n".join(
        [
            stanza(
                f"linux-headers-{release}",
                version,
                f"linux-headers-{common} (= {version}), {kbuild} (>= {version}), "
                "linux-compiler-gcc-12-x86",
            ),
            stanza(f"linux-headers-{common}", version),
            stanza(kbuild, kbuild_version),
            stanza(f"linux-source-{series}", version),
        ]
    )


FOLDERS = {"bookworm-security": "debian-security"}
LISTS = {
    "bullseye-security": [stanza("linux-kbuild-6.1", "6.1.172-1~deb11u1")],
    "bookworm": [
        stanza("bash", "5.2"),
        stanza("linux-image-amd64", "6.1.170-3", "linux-image-6.1.0-47-amd64 (= 6.1.170-3)"),
        image("6.1.0-47-amd64", "6.1.170-3"),
        stanza("linux-image-6.1.0-47-amd64-dbg", "6.1.170-3"),
        stanza("linux-image-6.1.0-47-amd64-unsigned", "6.1.170-3"),
        image("6.1.0-47-rt-amd64", "6.1.170-3"),
        image("6.1.0-47-cloud-amd64", "6.1.170-3"),
        kit("6.1.0-47-amd64", "6.1.170-3", "linux-kbuild-6.1", "6.1.176-1", "6.1"),
    ],
    "bookworm-security": [
        image("6.1.0-47-amd64", "6.1.170-3"),
        stanza("linux-image-6.12-amd64", "6.12.117-1~deb12u1",
               "linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)"),
        image("6.12.90+deb12-amd64", "6.12.90-1~deb12u1"),
        image("6.12.90+deb12.1-amd64", "6.12.90-2~deb12u1"),
        image("6.12.117+deb12-amd64", "6.12.117-1~deb12u1"),
        kit("6.12.117+deb12-amd64", "6.12.117-1~deb12u1", "linux-kbuild-6.12.117+deb12",
            "6.12.117-1~deb12u1", "6.12"),
    ],
    "trixie": [image("6.12.117+deb13-amd64", "6.12.117-1")],
    "trixie-security": [image("6.12.118+deb13-amd64", "6.12.118-1")],
    "trixie-backports": [
        split("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
        split("7.1.8+deb13-amd64", "7.1.8-1~bpo13+1", ("base", "binary")),
        split("7.2.6+deb13-amd64", "7.2.6-1~bpo13+1", ("binary", "modules")),
        stanza("linux-image-6.18.5+deb13-amd64", "6.18.5-1~bpo13+1",
               "kmod, linux-base-6.18.5+deb13-amd64 (= 6.18.5-1~bpo13+1)"),
    ],
}  # fmt: skip
PACKAGES = [
    package
    for suite, stanzas in LISTS.items()
    for package in parse_packages("\n".join(stanzas).encode(), suite, FOLDERS.get(suite, "debian"))
]
OFFERS = offers(PACKAGES)


def releases(found: list[Offer]) -> list[str]:
    return [offer.release for offer in found]


def offered(release: str) -> Offer:
    return next(offer for offer in OFFERS if offer.release == release)


def test_the_plain_kernels_that_are_whole_are_offered_oldest_first() -> None:
    assert releases(OFFERS) == [
        "6.1.0-47-amd64",
        "6.12.90+deb12-amd64",
        "6.12.90+deb12.1-amd64",
        "6.12.117+deb12-amd64",
        "6.12.117+deb13-amd64",
        "6.12.118+deb13-amd64",
        "6.18.5+deb13-amd64",
        "7.2.6+deb13-amd64",
        "7.3.4+deb13-amd64",
    ]


def test_an_offer_has_both_versions_and_all_its_suites_and_places() -> None:
    offer = offered("6.1.0-47-amd64")
    assert (offer.version, offer.debian_version) == ("6.1.170", "6.1.170-3")
    assert offer.suites == ("bookworm", "bookworm-security")
    (package,) = offer.packages
    assert package.name == "linux-image-6.1.0-47-amd64"
    assert package.urls == tuple(
        f"{folder}/pool/linux-image-6.1.0-47-amd64_6.1.170-3.deb"
        for folder in ("debian", "debian-security")
    )


def test_a_split_kernel_is_the_packages_that_hold_it() -> None:
    offer = offered("7.3.4+deb13-amd64")
    assert sorted(package.name for package in offer.packages) == [
        f"linux-{kind}-7.3.4+deb13-amd64" for kind in ("base", "binary", "modules")
    ]
    assert offer.size == 3000


def test_the_list_of_what_is_built_in_may_be_gone() -> None:
    names = [package.name for package in offered("7.2.6+deb13-amd64").packages]
    assert names == ["linux-binary-7.2.6+deb13-amd64", "linux-modules-7.2.6+deb13-amd64"]
    (classic,) = offered("6.18.5+deb13-amd64").packages
    assert classic.name == "linux-image-6.18.5+deb13-amd64"


@pytest.mark.parametrize(
    ("typed", "release"),
    [
        ("6.1.0-47-amd64", "6.1.0-47-amd64"),
        ("6.1.0-47", "6.1.0-47-amd64"),
        ("6.1.170", "6.1.0-47-amd64"),
        ("6.1.170-3", "6.1.0-47-amd64"),
        ("6.1", "6.1.0-47-amd64"),
        ("6.12.117+deb12", "6.12.117+deb12-amd64"),
        ("6.12.117+deb13-amd64", "6.12.117+deb13-amd64"),
        ("6.12.117-1~deb12u1", "6.12.117+deb12-amd64"),
        ("6.12.90+deb12", "6.12.90+deb12-amd64"),
        ("6.12.90", "6.12.90+deb12.1-amd64"),
        ("6.12", "6.12.118+deb13-amd64"),
        ("6", "6.18.5+deb13-amd64"),
        ("7.3", "7.3.4+deb13-amd64"),
    ],
)
def test_what_is_typed_means_one_kernel(typed: str, release: str) -> None:
    assert find_offer(typed, OFFERS).release == release


@pytest.mark.parametrize("codename", ["bookworm", "trixie"])
def test_of_two_equally_new_the_hosts_own_is_meant(codename: str) -> None:
    number = {"bookworm": "12", "trixie": "13"}[codename]
    assert find_offer("6.12.117", OFFERS, codename).release == f"6.12.117+deb{number}-amd64"


@pytest.mark.parametrize(
    ("codename", "release"),
    [
        ("bookworm", "6.12.117+deb12-amd64"),
        ("trixie", "6.12.118+deb13-amd64"),
        ("jammy", "6.12.118+deb13-amd64"),
        ("", "6.12.118+deb13-amd64"),
    ],
)
def test_the_default_is_the_newest_of_the_hosts_own_else_of_all(
    codename: str, release: str
) -> None:
    assert default_offer("6.12", OFFERS, codename).release == release


def test_an_unknown_version_names_the_nearest_ones() -> None:
    with pytest.raises(
        UsageError,
        match=r"no kernel 6\.6; nearest .* 6\.1\.0-47-amd64 \(6\.1\.170\), 6\.12\.90\+deb12-amd64",
    ):
        find_offer("6.6", OFFERS)


@pytest.mark.parametrize("typed", ["6.1.17", "6.12.1", "7.1.8", "5", "9.9", "x", ""])
def test_a_prefix_ends_where_a_number_ends_and_unknown_is_refused(typed: str) -> None:
    with pytest.raises(UsageError, match="offers no kernel"):
        find_offer(typed, OFFERS)


def test_an_empty_archive_is_told() -> None:
    with pytest.raises(UsageError, match="nor any other"):
        find_offer("6.12", [])


def test_the_build_kit_is_of_exactly_the_kernels_version() -> None:
    made = build_kit(offered("6.12.117+deb12-amd64"), PACKAGES)
    assert [package.name for package in made.headers] == [
        "linux-headers-6.12.117+deb12-amd64",
        "linux-headers-6.12.117+deb12-common",
        "linux-kbuild-6.12.117+deb12",
    ]
    assert made.source.name == "linux-source-6.12"
    assert {package.version for package in (*made.headers, made.source)} == {"6.12.117-1~deb12u1"}
    assert made.compiler == "gcc-12"


def test_build_tools_of_the_same_release_that_are_newer_will_do() -> None:
    made = build_kit(offered("6.1.0-47-amd64"), PACKAGES)
    assert [(package.name, package.version) for package in made.headers][-1] == (
        "linux-kbuild-6.1", "6.1.176-1"
    )  # fmt: skip


def test_a_kernel_whose_headers_are_gone_is_told() -> None:
    with pytest.raises(UsageError, match=r"can't be built: .* no longer offers linux-headers-7"):
        build_kit(offered("7.3.4+deb13-amd64"), PACKAGES)


@pytest.mark.parametrize("gone", ["linux-source-6.12", "linux-kbuild-6.12.117+deb12"])
def test_a_kernel_whose_source_or_tools_are_gone_is_told(gone: str) -> None:
    left = [package for package in PACKAGES if package.name != gone]
    with pytest.raises(UsageError, match=f"no longer offers {gone.split('+')[0]}"):
        build_kit(offered("6.12.117+deb12-amd64"), left)


def test_a_stanza_is_parsed_whole() -> None:
    text = stanza("linux-image-1-amd64", "1-1", "a,\n b").encode()
    assert parse_packages(text, "sid", "debian") == [
        Package(
            "linux-image-1-amd64",
            "1-1",
            "linux-image-1-amd64-1-1",
            1000,
            "a,\n b",
            ("sid",),
            ("debian/pool/linux-image-1-amd64_1-1.deb",),
        )
    ]


@given(st.lists(st.sampled_from(["Version", "SHA256", "Size", "Filename"]), min_size=1))
def test_a_stanza_that_lacks_a_field_is_left_out(missing: list[str]) -> None:
    lines = image("1-amd64", "1-1").splitlines(keepends=True)
    kept = [line for line in lines if line.split(":")[0] not in missing]
    assert parse_packages("".join(kept).encode(), "sid", "debian") == []


@pytest.mark.parametrize("version", ["6\ufffd1.170-3", "x6", "6_1", "", "6 1", "6.1\n 7"])
def test_a_stanza_whose_version_is_none_is_left_out(version: str) -> None:
    text = image("6.1.0-47-amd64", version) + "\n" + image("6.1.0-48-amd64", "6.1.180-1")
    found = offers(parse_packages(text.encode(), "sid", "debian"))
    assert [offer.debian_version for offer in found] == ["6.1.180-1"]


@pytest.mark.parametrize("size", ["\u0664", "\u00b2", "9" * 5000, "-1"])
def test_a_stanza_whose_size_is_none_is_left_out(size: str) -> None:
    assert parse_packages(stanza("linux-image-6", "6", Size=size).encode(), "sid", "debian") == []


@given(st.binary())
def test_any_list_is_parsed(text: bytes) -> None:
    parse_packages(text, "sid", "debian")
    parse_packages(b"Package: linux-image-1-amd64\n" + text, "sid", "debian")


versions = st.from_regex(
    r"[0-9]\.[0-9]{1,3}(\.[0-9]{1,3})?(-[0-9]{1,2})?(~bpo1[0-9])?", fullmatch=True
)


@given(st.lists(versions, min_size=1, unique=True), st.data())
def test_each_kernel_on_offer_is_found_by_its_release(
    found: list[str], data: st.DataObject
) -> None:
    text = "\n".join(image(f"{number}-amd64", number) for number in found)
    on_offer = offers(parse_packages(text.encode(), "sid", "debian"))
    assert len(on_offer) == len(found)
    wanted = data.draw(st.sampled_from(on_offer))
    assert find_offer(wanted.release, on_offer) == wanted


@given(st.text(max_size=12))
def test_whatever_is_typed_means_a_kernel_or_is_refused(typed: str) -> None:
    try:
        assert find_offer(typed, OFFERS) in OFFERS
    except UsageError:
        assert typed not in [offer.release for offer in OFFERS]
