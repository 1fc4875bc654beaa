"""OpenSSH's server, as files below a folder: Debian's packages, unpacked and not installed.

Installing them would start an sshd on this machine.
"""

import hashlib
import re
import subprocess
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit

__all__ = ["sshd_files"]

_PACKAGE = "openssh-server"
#: Merged into /usr, as they are on a machine whose /bin, /lib and /sbin are links into it.
_MERGED = r"s,^\./\(bin\|sbin\|lib\|lib64\)\(/\|$\),./usr/\1\2,"


def sshd_files() -> Path:
    """Return a folder with usr/sbin/sshd and what this machine lacks to run it.

    Raises EnvironmentUnfit where there is none, or apt can't fetch it.
    """
    packages = _missing_packages()
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()
    return Cache.default().entry(_PACKAGE, digest, lambda folder: _unpack(packages, folder))


def _missing_packages() -> list[str]:
    """Return what apt would install beside the server, as NAME=VERSION."""
    said = _apt("install", "--simulate", "--no-install-recommends", _PACKAGE)
    # What is there already, if in an older version, stays.
    found = re.findall(r"^Inst (\S+) \((\S+) ", said, re.MULTILINE)
    if not found and not Path("/usr/sbin/sshd").exists():
        raise EnvironmentUnfit(f"apt does not know {_PACKAGE}; apt-get update")
    return sorted("=".join(each) for each in found)


def _unpack(packages: list[str], folder: Path) -> None:
    (folder / "usr/sbin").mkdir(parents=True)
    if packages:
        _apt("download", *packages, cwd=folder)
    for deb in sorted(folder.glob("*.deb")):
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True)
        command = ["tar", "--extract", "--transform", _MERGED, "--directory", folder]
        subprocess.run(command, check=True, input=tar.stdout)
        deb.unlink()


def _apt(*words: str, cwd: Path | None = None) -> str:
    command = ["apt-get", "--quiet", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    except FileNotFoundError:
        raise EnvironmentUnfit(f"{_PACKAGE} is taken from Debian, and apt is missing") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise EnvironmentUnfit(f"{' '.join(command)} failed: {why}; apt-get update")
    return done.stdout
