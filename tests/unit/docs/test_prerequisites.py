"""tools/prerequisites.sh: what is said, and done, where packages are missing."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import os_releases
from support.os_releases import FAMILIES

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tools" / "prerequisites.sh"


@dataclass
class Host:
    """A machine with few programs."""

    root: Path
    os_release: str = os_releases.DEBIAN
    user: int = 1000
    programs: dict[str, str] = field(default_factory=dict)

    def run(self, *purposes: str) -> "subprocess.CompletedProcess[str]":
        path = self.root / "bin"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for tool in ("awk", "dirname"):
            (path / tool).symlink_to(shutil.which(tool) or tool)
        for name, script in ({"id": f"echo {self.user}"} | self.programs).items():
            (path / name).write_text(f"#!/bin/sh\n{script}\n")
            (path / name).chmod(0o755)
        (self.root / "os-release").write_text(self.os_release)
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), *purposes],
            env={"PATH": str(path), "OS_RELEASE": str(self.root / "os-release")},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


BUILD = {
    "debian": "sudo apt-get install --no-install-recommends python3 python3-venv python3-dev gcc "
    "binutils libc6-dev linux-libc-dev",
    "fedora": "sudo dnf install python3 python3-devel gcc binutils glibc-devel kernel-headers",
    "arch": "sudo pacman -S python gcc binutils glibc linux-api-headers",
    "suse": "sudo zypper install python3 python3-devel gcc binutils glibc-devel linux-glibc-devel",
}


@pytest.mark.parametrize("os_release", FAMILIES, ids=os_releases.name_of)
def test_what_is_missing_is_named_with_the_distributions_own_command(
    host: Host, os_release: str
) -> None:
    host.os_release = os_release
    done = host.run()
    assert (done.returncode, done.stdout) == (1, "")
    if family := FAMILIES[os_release]:
        packages = BUILD[family].partition("install ")[2] or BUILD[family].partition("-S ")[2]
        packages = packages.removeprefix("--no-install-recommends ")
        assert done.stderr == f"kvmtest: missing {packages}; install it: {BUILD[family]}\n"
    else:
        assert done.stderr == (
            "kvmtest: missing what Debian calls python3 python3-venv python3-dev gcc binutils "
            "libc6-dev linux-libc-dev; install it\n"
        )


@pytest.mark.parametrize(
    ("os_release", "packages"),
    [
        (os_releases.DEBIAN, "g++ make patch xz-utils"),
        (os_releases.FEDORA, "gcc-c++ make patch xz"),
        (os_releases.ARCH, "gcc make patch xz"),
        (os_releases.TUMBLEWEED, "gcc-c++ make patch xz"),
    ],
    ids=["debian", "fedora", "arch", "suse"],
)
def test_the_emulator_needs_what_builds_it(host: Host, os_release: str, packages: str) -> None:
    host.os_release = os_release
    said = host.run("emulator").stderr
    assert said.startswith(f"kvmtest: missing {packages}; ")


def test_the_labs_machines_need_no_compiler(host: Host) -> None:
    host.os_release = os_releases.DEBIAN
    named = host.run("lab").stderr
    assert named.startswith("kvmtest: missing busybox-static")
    assert "g++" not in named
    assert "qemu" not in named


def test_several_purposes_make_one_line_without_repetitions(host: Host) -> None:
    host.os_release = os_releases.FEDORA
    done = host.run("lab", "emulator", "amd", "mutants")
    (named,) = re.findall(r"missing (.*);", done.stderr)
    assert {"gcc-c++", "qemu-system-x86", "dwarves", "patch"} <= set(named.split())
    assert len(set(named.split())) == len(named.split())


def test_where_nothing_is_missing_nothing_is_said(host: Host) -> None:
    host.programs = dict.fromkeys(("make", "patch", "xz", "pahole"), "exit 0")
    done = host.run("mutants")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("os_release", FAMILIES, ids=os_releases.name_of)
def test_only_root_on_the_debian_family_has_it_installed_at_once(
    host: Host, os_release: str
) -> None:
    host.os_release, host.user = os_release, 0
    log = host.root / "log"
    for name in ("apt-get", "dnf", "pacman", "zypper"):
        host.programs[name] = f'echo "{name} $*" >>{log}'
    done = host.run("mutants")
    assert done.returncode == 1
    if FAMILIES[os_release] == "debian":
        packages = "make patch xz-utils dwarves"
        assert log.read_text().splitlines() == [
            "apt-get update",
            f"apt-get install --no-install-recommends --yes {packages}",
        ]
        assert done.stdout == f"kvmtest: installing {packages}\n"
        assert done.stderr == f"kvmtest: still missing after the install: {packages}\n"
    else:
        assert not log.exists()
        assert "sudo" not in done.stderr


def test_an_install_that_fails_is_told(host: Host) -> None:
    host.user, host.programs["apt-get"] = 0, "exit 100"
    done = host.run("mutants")
    assert done.returncode == 1
    assert done.stderr.endswith("dwarves failed; run it by hand\n")


def test_a_python_that_is_too_old_is_told(host: Host) -> None:
    host.programs["python3"] = "case $1 in --version) echo Python 3.9.21;; *) exit 1;; esac"
    done = host.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "kvmtest: python3 is Python 3.9.21, and 3.11 or later is needed; install one and name it: "
        "make PYTHON=python3.12 ...\n"
    )


def test_this_machine_can_build_kvmtest() -> None:
    done = subprocess.run(
        ["sh", str(SCRIPT)], env=os.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
