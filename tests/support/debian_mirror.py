"""A small archive of Debian's kind, signed with a key of its own, as the files of a server."""

import gzip
import hashlib
import lzma
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pysequoia

from .file_server import FileServer

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
}


class Key:
    """A key that signs, and its certificate."""

    def __init__(self) -> None:
        self.secret = pysequoia.Tsk.generate(
            "Archive <archive@example.org>", validity_seconds=10**8
        )
        self.certificate: Any = self.secret.extract_certificate()

    def sign(self, text: str) -> bytes:
        mode = pysequoia.SignatureMode.CLEAR
        return bytes(pysequoia.sign(self.secret.signer(), text.encode(), mode=mode))

    def revoke(self) -> None:
        revocation = self.certificate.revoke(self.secret.certifier())
        self.certificate = pysequoia.Cert.from_bytes(bytes(self.certificate) + bytes(revocation))


def write_keyring(path: Path, *keys: Key) -> None:
    path.write_bytes(b"".join(bytes(key.certificate) for key in keys))


@dataclass
class Mirror:
    """One suite, sid. ``publish`` puts into the server what the fields say."""

    server: FileServer
    key: Key
    suite: str = "sid"
    suffixes: tuple[str, ...] = (".xz", ".gz", "")
    by_hash: bool = True
    date: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    valid_for: timedelta | None = timedelta(days=7)
    stanzas: str = ""
    sources: str = ""

    @property
    def dists(self) -> str:
        return f"/debian/dists/{self.suite}"

    def add(self, path: Path, package: str, version: str) -> None:
        """Take a .deb in."""
        content = path.read_bytes()
        pool = f"pool/main/l/linux/{package}_{version}_amd64.deb"
        self.server.files[f"/debian/{pool.replace('+', '%2B')}"] = content
        self.stanzas += (
            f"Package: {package}\nVersion: {version}\nArchitecture: amd64\n"
            f"Filename: {pool}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n"
        )
        self.publish()

    def publish(self) -> None:
        """Write the lists and the signed index."""
        lists = {"main/binary-amd64/Packages": self.stanzas, "main/source/Sources": self.sources}
        lines = [self._list(path, text, suffix) for path, text in lists.items()
                 for suffix in self.suffixes]  # fmt: skip
        self.server.files[f"{self.dists}/InRelease"] = self.key.sign(self.index(lines))

    def _list(self, path: str, text: str, suffix: str) -> str:
        """Write a list; return its line of the index."""
        content = PACKERS[suffix](text.encode())
        digest = hashlib.sha256(content).hexdigest()
        self.server.files[f"{self.dists}/{path}{suffix}"] = content
        if self.by_hash:
            folder = path.rpartition("/")[0]
            self.server.files[f"{self.dists}/{folder}/by-hash/SHA256/{digest}"] = content
        return f" {digest} {len(content)} {path}{suffix}\n"

    def index(self, lines: list[str]) -> str:
        until = self.valid_for and self.date + self.valid_for
        return (
            f"Suite: unstable\nCodename: {self.suite}\nDate: {format_datetime(self.date)}\n"
            + (f"Valid-Until: {format_datetime(until)}\n" if until else "")
            + ("Acquire-By-Hash: yes\n" if self.by_hash else "")
            + f"SHA256:\n{''.join(lines)}"
        )
