"""Digests
=======

Names for things made from parts, alike where all parts are alike.
"""

import hashlib
from collections.abc import Mapping

__all__ = ["of_files", "of_parts"]


def of_parts(*parts: str) -> str:
    """Return the digest of texts in their order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def of_files(files: Mapping[str, bytes]) -> str:
    """Return the digest of contents by their names."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0".encode() + hashlib.sha256(files[name]).digest())
    return total.hexdigest()
