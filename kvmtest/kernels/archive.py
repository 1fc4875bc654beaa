"""Debian's archive
================

Finds kernels in Debian's archive and downloads them, with apt and a configuration of kvmtest's own:
the machine's sources, lists and hooks are neither used nor touched, and no root is needed. apt
checks signatures against Debian's keyring, and downloads against the signed lists.
"""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.offers import (
    BuildKit,
    Offer,
    Package,
    build_kit,
    default_offer,
    find_offer,
    offers,
    parse_packages,
)

__all__ = ["DEFAULT_SERIES", "SUITES", "Archive", "host_codename"]

DEFAULT_SERIES = "6.12"
"""The long-term series whose newest kernel is taken where the user names none."""

MIRROR = "http://deb.debian.org"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = {
    "bullseye": "debian",
    "bullseye-security": "debian-security",
    "bookworm": "debian",
    "bookworm-backports": "debian",
    "bookworm-security": "debian-security",
    "trixie": "debian",
    "trixie-backports": "debian",
    "trixie-security": "debian-security",
    "sid": "debian",
}
"""The suites that have kernels, each with its folder on the mirror."""

_DAY = 24 * 3600.0
_APT_HELPER = Path("/usr/lib/apt/apt-helper")
# Cleared whatever the machine configures: its hooks would change the machine.
_CLEARED = (
    "APT::Architectures",
    "APT::Update::Pre-Invoke",
    "APT::Update::Post-Invoke",
    "APT::Update::Post-Invoke-Success",
    "APT::Default-Release",
)
_CONFIGURATION = """\
Dir "{root}/";
Dir::State "state";
Dir::State::lists "lists";
Dir::State::status "/dev/null";
Dir::Cache "cache";
Dir::Cache::archives "archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc "etc";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "2";
Acquire::http::Timeout "30";
"""

OnStep = Callable[[str], None]


class Archive:
    """The suites of SUITES; apt's lists are kept in ``cache``.

    ``on_step`` gets a line before each step that takes seconds. Lists older than ``max_age``
    seconds are fetched again; where that fails, the old ones serve on.
    """

    def __init__(self, cache: Cache, on_step: OnStep, *, max_age: float = _DAY) -> None:
        self._cache = cache
        self._root = cache.root / "archive"
        self._on_step = on_step
        self._max_age = max_age
        self._packages: list[Package] | None = None

    def offers(self) -> list[Offer]:
        """Return the kernels on offer, oldest first. Raises EnvironmentUnfit."""
        return offers(self.packages())

    def find(self, typed: str | None = None) -> Offer:
        """Return the kernel that ``typed`` means, such as 6.1.170-3; None means the default.

        The default is the newest of DEFAULT_SERIES in this machine's Debian release, whose headers
        build here. Raises UsageError where it is not offered, EnvironmentUnfit.
        """
        on_offer, codename = self.offers(), host_codename()
        if typed is None:
            return default_offer(DEFAULT_SERIES, on_offer, codename)
        return find_offer(typed, on_offer, codename)

    def build_kit(self, offer: Offer) -> BuildKit:
        """Return the packages that build modules for ``offer``. Raises UsageError."""
        return build_kit(offer, self.packages())

    def packages(self) -> list[Package]:
        """Return all packages of kernels. Raises EnvironmentUnfit where there are no lists."""
        if self._packages is None:
            with self._cache.lock("archive", "lists"):
                self._packages = self._fresh() or self._refreshed()
        return self._packages

    def download(self, packages: Iterable[Package], folder: Path) -> list[Path]:
        """Download ``packages`` into the empty ``folder``; return the files in the same order.

        Raises EnvironmentUnfit.
        """
        wanted = list(packages)
        megabytes = sum(package.size for package in wanted) / 1e6
        self._on_step(
            f"downloading {', '.join(f'{p.name} {p.version}' for p in wanted)} "
            f"from Debian's archive ({megabytes:.0f} MB)"
        )
        with self._cache.lock("archive", "lists"):
            if not any(self._root.glob("state/lists/*_Packages*")):
                self._update()
            self._apt("apt-get", "-q", "download", *(f"{p.name}={p.version}" for p in wanted),
                      folder=folder)  # fmt: skip
        return [_downloaded(package, folder) for package in wanted]

    def _fresh(self) -> list[Package] | None:
        """Return what the last refresh found, unless that is too old or damaged."""
        try:
            age = time.time() - self._table.stat().st_mtime
            return _parse_table(self._table.read_bytes()) if 0 <= age < self._max_age else None
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def _refreshed(self) -> list[Package]:
        try:
            self._update()
        except EnvironmentUnfit as error:
            packages = self._read_lists() if self._lists() else []
            if not packages:
                raise
            self._on_step(f"{error}; going on with the old lists")
            return packages
        packages = self._read_lists()
        table = self._table.with_suffix(".new")
        table.write_text(json.dumps([asdict(package) for package in packages]))
        table.rename(self._table)
        return packages

    @property
    def _table(self) -> Path:
        return self._root / "packages.json"

    def _update(self) -> None:
        """Fetch the lists that have changed."""
        self._on_step("fetching the package lists of Debian's archive")
        self._apt("apt-get", "-q", "update")

    def _lists(self) -> dict[str, str]:
        """Return the suite of each list that is there, by file name."""
        lines = self._apt(
            "apt-get", "indextargets", "--format", "$(FILENAME) $(RELEASE)", "Created-By: Packages"
        ).splitlines()
        pairs = (line.rpartition(" ")[::2] for line in lines)
        return {name: suite for name, suite in pairs if Path(name).is_file()}

    def _read_lists(self) -> list[Package]:
        packages: list[Package] = []
        for name, suite in self._lists().items():
            text = _run([str(_APT_HELPER), "-c", str(self._configuration()), "cat-file", name])
            packages += parse_packages(text, suite)
        if not packages:
            raise EnvironmentUnfit(
                f"Debian's archive offers no kernels in {', '.join(SUITES)}: remove {self._root} "
                "and try again"
            )
        return packages

    def _apt(self, *command: str, folder: Path | None = None) -> str:
        program, *arguments = command
        configured = [program, "-c", str(self._configuration()), *arguments]
        return _run(configured, folder).decode(errors="replace")

    def _configuration(self) -> Path:
        """Write apt's configuration and make its folders; return the configuration's file."""
        unable = "can't look for kernels in Debian's archive"
        if not shutil.which("apt-get"):
            raise EnvironmentUnfit(
                f"{unable}: apt-get is missing; give a kernel's .deb or a build tree instead"
            )
        if not KEYRING.is_file():
            raise EnvironmentUnfit(
                f"{unable}: {KEYRING} is missing; install debian-archive-keyring"
            )
        for name in ("etc", "state/lists/partial", "cache/archives/partial"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        (self._root / "etc/sources.list").write_text(_sources())
        path = self._root / "apt.conf"
        path.write_text(
            "".join(f"#clear {name};\n" for name in _CLEARED)
            + _CONFIGURATION.format(root=self._root)
        )
        return path


def host_codename() -> str:
    """Return the codename of the Debian release that runs here, or "" (os-release(5))."""
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        return ""


def _sources() -> str:
    return "".join(
        f"deb [arch=amd64 target=Packages signed-by={KEYRING}] {MIRROR}/{folder} {suite} main\n"
        for suite, folder in SUITES.items()
    )


def _parse_table(text: bytes) -> list[Package]:
    return [
        Package(**{**package, "suites": tuple(package["suites"])}) for package in json.loads(text)
    ]


def _downloaded(package: Package, folder: Path) -> Path:
    found = sorted(folder.glob(f"{package.name}_*.deb"))
    if len(found) != 1:
        raise EnvironmentUnfit(
            f"apt downloaded {len(found)} files of {package.name} {package.version} to {folder}, "
            "not one"
        )
    return found[0]


def _run(command: Sequence[str], folder: Path | None = None) -> bytes:
    """Run a program of apt's; return its output. Raises EnvironmentUnfit with its first error."""
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            capture_output=True, check=False,
        )  # fmt: skip
    except OSError as error:
        raise EnvironmentUnfit(f"can't run {command[0]}: {error.strerror}; install apt") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("E:")] or lines[-1:]
        said = errors[0].removeprefix("E: ") if errors else f"exit status {done.returncode}"
        raise EnvironmentUnfit(
            f"Debian's archive can't be reached: {said}; check the network, or give a kernel's .deb"
        )
    return done.stdout
