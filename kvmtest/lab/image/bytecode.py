"""Bytecode
========

Python bytecode for a machine, which compiles far more slowly than it runs. It has the form that is
never checked against its source (PEP 552): nothing in a machine is edited.
"""

import importlib.util
import marshal
from pathlib import Path

__all__ = ["compiled", "of_file"]

_FLAGS = (0b01).to_bytes(4, "little")  # checked against nothing


def of_file(path: Path, source: bytes) -> bytes | None:
    """Return the bytecode of a file of this host, whose content is ``source``; None if it has none.

    Bytecode that the host has compiled already is reused: compiling all takes ten seconds.
    """
    known = _known(path)
    return compiled(str(path), source) if known is None else _head(source) + known


def _known(path: Path) -> bytes | None:
    """Return the host's bytecode of a file without its head; None without one, or an old one."""
    try:
        data = Path(importlib.util.cache_from_source(str(path))).read_bytes()
        status = path.stat()
    except OSError:
        return None
    stamp = int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF
    fresh = b"".join(number.to_bytes(4, "little") for number in (0, *stamp))
    return data[16:] if data[:16] == importlib.util.MAGIC_NUMBER + fresh else None


def compiled(name: str, source: bytes) -> bytes | None:
    """Return the bytecode of ``source``, called ``name`` in tracebacks; None if it has none."""
    try:
        return _head(source) + marshal.dumps(compile(source, name, "exec", dont_inherit=True))
    except (SyntaxError, ValueError):
        return None  # A template, or a module for another version of Python.


def _head(source: bytes) -> bytes:
    return importlib.util.MAGIC_NUMBER + _FLAGS + importlib.util.source_hash(source)
