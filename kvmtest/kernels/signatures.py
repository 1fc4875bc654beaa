"""Signatures of Debian's archive
==============================

Checks what the archive's keys signed: by the keys that are part of kvmtest, and by those of the
package debian-archive-keyring where it is installed, as it brings the keys of later releases.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from kvmtest.errors import EnvironmentUnfit
from kvmtest.optional_libraries import library

__all__ = ["signed_text"]

SHIPPED = Path(__file__).with_name("debian-archive-keys.asc")
INSTALLED = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)


def signed_text(message: bytes, now: datetime) -> str:
    """Return the text of a message with a cleartext signature (RFC 9580, section 7).

    One good signature by a key that has neither expired nor been revoked is enough: the archive
    signs with the keys of several releases. Raises EnvironmentUnfit where there is none; nothing
    outside of the signed text is returned.
    """
    openpgp = library("pysequoia", "checking the signatures of Debian's archive")
    keys = [key for key in _keys(openpgp) if key.expiration is None or now < key.expiration]
    try:
        verified = openpgp.verify(bytes=message, store=lambda _: keys)
    except Exception as error:  # pysequoia raises plain Exceptions
        raise EnvironmentUnfit(
            f"not signed by a known key of Debian's archive ({_why(error)}); where the archive has "
            "new keys, install debian-archive-keyring or a later kvmtest"
        ) from None
    return bytes(verified.bytes).decode(errors="replace")


def _keys(openpgp: Any) -> list[Any]:
    """Return the certificates, each once; an installed one may say that the key was revoked."""
    files = [SHIPPED, *(path for path in INSTALLED if path.is_file())]
    return list({key.fingerprint: key for path in files for key in _read(openpgp, path)}.values())


def _read(openpgp: Any, path: Path) -> list[Any]:
    try:
        return list(openpgp.Cert.split_file(str(path)))
    except Exception as error:  # as above
        raise EnvironmentUnfit(
            f"can't read the keys in {path} ({_why(error)}); install its package again"
        ) from None


def _why(error: Exception) -> str:
    """Return what pysequoia says, without the backtrace below."""
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
