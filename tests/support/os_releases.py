"""os-release files as distributions ship them, without addresses and colours."""

DEBIAN = """\
PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
VERSION="13 (trixie)"
VERSION_CODENAME=trixie
DEBIAN_VERSION_FULL=13.1
ID=debian
"""
UBUNTU = """\
PRETTY_NAME="Ubuntu 24.04.4 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.4 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
"""
MINT = """\
NAME="Linux Mint"
VERSION="22 (Wilma)"
ID=linuxmint
ID_LIKE="ubuntu debian"
PRETTY_NAME="Linux Mint 22"
VERSION_ID="22"
VERSION_CODENAME=wilma
UBUNTU_CODENAME=noble
"""
ELEMENTARY = """\
NAME="elementary OS"
VERSION="7.1 Horus"
ID=elementary
ID_LIKE=ubuntu
PRETTY_NAME="elementary OS 7.1 Horus"
VERSION_ID="7.1"
VERSION_CODENAME=horus
UBUNTU_CODENAME=jammy
"""
FEDORA = """\
NAME="Fedora Linux"
VERSION="43 (Workstation Edition)"
RELEASE_TYPE=stable
ID=fedora
VERSION_ID=43
VERSION_CODENAME=""
PLATFORM_ID="platform:f43"
PRETTY_NAME="Fedora Linux 43 (Workstation Edition)"
VARIANT="Workstation Edition"
VARIANT_ID=workstation
"""
RHEL = """\
NAME="Red Hat Enterprise Linux"
VERSION="10.1 (Coughlan)"
ID="rhel"
ID_LIKE="centos fedora"
VERSION_ID="10.1"
PLATFORM_ID="platform:el10"
PRETTY_NAME="Red Hat Enterprise Linux 10.1 (Coughlan)"
"""
ROCKY = """\
NAME="Rocky Linux"
VERSION="9.6 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.6"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"
"""
ARCH = """\
NAME="Arch Linux"
PRETTY_NAME="Arch Linux"
ID=arch
BUILD_ID=rolling
"""
MANJARO = """\
NAME="Manjaro Linux"
PRETTY_NAME="Manjaro Linux"
ID=manjaro
ID_LIKE=arch
BUILD_ID=rolling
"""
LEAP = """\
NAME="openSUSE Leap"
VERSION="15.6"
ID="opensuse-leap"
ID_LIKE="suse opensuse"
VERSION_ID="15.6"
PRETTY_NAME="openSUSE Leap 15.6"
"""
TUMBLEWEED = """\
NAME="openSUSE Tumbleweed"
# VERSION="20241001"
ID="opensuse-tumbleweed"
ID_LIKE="opensuse suse"
VERSION_ID="20241001"
PRETTY_NAME="openSUSE Tumbleweed"
"""
ALPINE = """\
NAME="Alpine Linux"
ID=alpine
VERSION_ID=3.20.3
PRETTY_NAME="Alpine Linux v3.20"
"""

#: Each with the family that it belongs to in kvmtest/distributions.txt, "" for none.
FAMILIES = {
    DEBIAN: "debian",
    UBUNTU: "debian",
    MINT: "debian",
    ELEMENTARY: "debian",
    FEDORA: "fedora",
    RHEL: "fedora",
    ROCKY: "fedora",
    ARCH: "arch",
    MANJARO: "arch",
    LEAP: "suse",
    TUMBLEWEED: "suse",
    ALPINE: "",
}


def name_of(os_release: str) -> str:
    """Return a distribution's ID."""
    (line,) = (line for line in os_release.splitlines() if line.startswith("ID="))
    return line.partition("=")[2].strip('"')
