"""kernels/archive.py: this machine's apt on an archive in a folder, signed with a new key."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernel_files import RELEASE, deb, tree_files

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit, UsageError
from kvmtest.kernels import archive as subject
from kvmtest.kernels.archive import Archive
from kvmtest.kernels.resolve import resolve

pytest.importorskip("debian")
pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("gpg")), reason="needs apt-get and gpg"
)

DAY = 24 * 3600


class Key:
    """A key of its own, in a folder whose path is short enough for gpg-agent's sockets."""

    def __init__(self, home: Path) -> None:
        self._environment = os.environ | {"GNUPGHOME": str(home)}
        self._gpg("--passphrase", "", "--quick-generate-key", "archive", "ed25519", "sign", "never")
        self.ring = home / "archive.gpg"
        self._gpg("--export", "--output", str(self.ring))

    def sign(self, path: Path, signed: Path) -> None:
        signed.unlink(missing_ok=True)
        self._gpg("--clearsign", "--output", str(signed), str(path))

    def close(self) -> None:
        subprocess.run(["gpgconf", "--kill", "all"], env=self._environment, check=True)

    def _gpg(self, *arguments: str) -> None:
        subprocess.run(["gpg", "--batch", "--quiet", *arguments], env=self._environment, check=True)


class Mirror:
    """An archive in a folder."""

    def __init__(self, root: Path, key: Key) -> None:
        self.root = root
        self.key = key
        self._stanzas = ""

    def add(self, path: Path, package: str, version: str) -> None:
        """Take a .deb in."""
        data = path.read_bytes()
        pool = self.root / "debian/pool" / f"{package}_{version}_amd64.deb"
        pool.parent.mkdir(parents=True, exist_ok=True)
        pool.write_bytes(data)
        self._stanzas += (
            f"Package: {package}\nVersion: {version}\nArchitecture: amd64\n"
            f"Filename: pool/{pool.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
        )
        self.publish()

    def publish(self) -> None:
        """Write and sign the lists."""
        suite = self.root / "debian/dists/sid"
        packages = suite / "main/binary-amd64/Packages"
        packages.parent.mkdir(parents=True, exist_ok=True)
        packages.write_text(self._stanzas)
        digest = hashlib.sha256(packages.read_bytes()).hexdigest()
        (suite / "Release").write_text(
            "Suite: unstable\nCodename: sid\nArchitectures: amd64\nComponents: main\n"
            f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S UTC', time.gmtime())}\nSHA256:\n"
            f" {digest} {packages.stat().st_size} main/binary-amd64/Packages\n"
        )
        self.key.sign(suite / "Release", suite / "InRelease")


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    with tempfile.TemporaryDirectory() as home:
        made = Key(Path(home))
        yield made
        made.close()


@pytest.fixture
def mirror(tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    made = Mirror(tmp_path / "mirror", key)
    made.add(deb(tmp_path / "a.deb", tree_files()), f"linux-image-{RELEASE}", "6.12.7-1")
    monkeypatch.setattr(subject, "MIRROR", f"copy:{made.root}")
    monkeypatch.setattr(subject, "SUITES", {"sid": "debian"})
    monkeypatch.setattr(subject, "KEYRING", key.ring)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def told() -> list[str]:
    return []


def releases(cache: Cache, told: list[str], max_age: float = DAY) -> list[str]:
    return [offer.release for offer in Archive(cache, told.append, max_age=max_age).offers()]


def test_a_kernel_is_found_downloaded_and_unpacked(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    kernel = resolve("6.12", None, cache, told.append)
    assert kernel.origin == f"Debian's 6.12.7-1 of {RELEASE} (sid)"
    assert [module.name for module in kernel.load_order("kvm_intel")] == [
        "irqbypass", "kvm", "kvm_intel"
    ]  # fmt: skip
    assert [line.split()[0] for line in told] == ["fetching", "downloading", "unpacking"]


def test_once_unpacked_it_is_neither_looked_for_nor_downloaded_again(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    first = resolve("6.12", None, cache, lambda line: None)
    shutil.rmtree(mirror.root)
    assert resolve("6.12.7", None, cache, told.append) == first
    assert told == []


def test_the_default_is_the_newest_6_12(mirror: Mirror, cache: Cache, tmp_path: Path) -> None:
    for release, version in (("6.12.8-amd64", "6.12.8-1"), ("6.18.1-amd64", "6.18.1-1")):
        package = f"linux-image-{release}"
        mirror.add(deb(tmp_path / "b.deb", {}, package=package, version=version), package, version)
    assert Archive(cache, lambda line: None).find().release == "6.12.8-amd64"


def test_lists_of_today_are_not_fetched_again(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    assert releases(cache, []) == [RELEASE]
    shutil.rmtree(mirror.root)
    assert releases(cache, told) == [RELEASE]
    assert told == []


def test_older_lists_are_fetched_again(
    mirror: Mirror, cache: Cache, tmp_path: Path, told: list[str]
) -> None:
    releases(cache, [])
    package = "linux-image-6.12.8-amd64"
    mirror.add(deb(tmp_path / "b.deb", {}, package=package), package, "6.12.8-1")
    assert releases(cache, told, max_age=0) == [RELEASE, "6.12.8-amd64"]
    assert len(told) == 1


def test_without_a_network_older_lists_serve_on_and_that_is_told(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    releases(cache, [])
    shutil.rmtree(mirror.root)
    assert releases(cache, told, max_age=0) == [RELEASE]
    assert "can't be reached" in told[-1]
    assert told[-1].endswith("going on with the old lists")


def test_without_a_network_and_lists_there_is_one_clear_line(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    shutil.rmtree(mirror.root)
    with pytest.raises(EnvironmentUnfit, match=r"can't be reached: .*; check the network") as it:
        releases(cache, told)
    assert "\n" not in str(it.value)


def test_lists_that_nobody_known_signed_are_refused(
    mirror: Mirror, cache: Cache, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as home:
        other = Key(Path(home))
        monkeypatch.setattr(subject, "KEYRING", other.ring)
        with pytest.raises(EnvironmentUnfit, match=r"not signed|signatures"):
            releases(cache, told)
        other.close()


def test_a_package_that_was_changed_is_refused(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    (package,) = (mirror.root / "debian/pool").iterdir()
    content = bytearray(package.read_bytes())
    content[-40] ^= 1
    package.write_bytes(content)
    with pytest.raises(EnvironmentUnfit, match=r"can't be reached|Hash Sum mismatch"):
        resolve("6.12", None, cache, told.append)
    assert not list(cache.root.glob("kernel/*"))


def test_an_unknown_version_names_what_is_on_offer(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    with pytest.raises(UsageError, match=rf"no kernel 6\.6; nearest .* {RELEASE[:6]}"):
        resolve("6.6", None, cache, told.append)


def test_apt_keeps_all_of_its_own_in_the_cache(
    mirror: Mirror, cache: Cache, told: list[str]
) -> None:
    releases(cache, told)
    configuration = cache.root / "archive/apt.conf"
    dump = subprocess.run(
        ["apt-config", "-c", str(configuration), "shell", "LISTS", "Dir::State::lists/d",
         "CACHE", "Dir::Cache/d", "ARCHIVES", "Dir::Cache::archives/d", "STATES",
         "Dir::State::extended_states/f", "SOURCES", "Dir::Etc::sourcelist/f"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    places = [line.partition("=")[2].strip("'") for line in dump.splitlines()]
    assert len(places) == 5
    assert all(place.startswith(str(cache.root)) for place in places)


def test_hooks_of_the_machines_own_apt_are_not_run(
    mirror: Mirror, cache: Cache, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    hooks = ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success")
    (tmp_path / "apt.conf").write_text(
        "".join(f'APT::Update::{hook} {{ "touch {ran}"; }};\n' for hook in hooks)
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    assert releases(cache, told) == [RELEASE]
    assert not ran.exists()


def test_without_apt_there_is_one_clear_line(
    cache: Cache, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentUnfit, match=r"apt-get is missing; give a kernel's \.deb"):
        releases(cache, told)


def test_without_debians_keyring_there_is_one_clear_line(
    cache: Cache, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "KEYRING", Path("/nowhere.gpg"))
    with pytest.raises(EnvironmentUnfit, match="install debian-archive-keyring"):
        releases(cache, told)


@pytest.mark.parametrize("table", ["", "{", "[1]", '[{"name": "x"}]', '{"a": 1}'])
def test_a_damaged_table_is_made_anew(
    mirror: Mirror, cache: Cache, told: list[str], table: str
) -> None:
    releases(cache, [])
    (cache.root / "archive/packages.json").write_text(table)
    assert releases(cache, told) == [RELEASE]
    assert len(told) == 1
