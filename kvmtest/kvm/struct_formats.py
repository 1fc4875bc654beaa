"""Struct formats
==============

Python's struct formats of kernel structures, made from the compiler's own layout: they unpack many
members at once, which is faster than one by one, and no layout is typed in.
"""

import struct
from typing import Any

from kvmtest._native import ffi

__all__ = ["unpacker"]

CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def unpacker(ctype: str, *paths: str, start: int = 0) -> struct.Struct:
    """Return a format that unpacks members of ``ctype``, in ascending order, from ``start`` on.

    A member is a path such as "io.port". Raises :class:`ValueError` for a member that is no
    integer, or that lies before its predecessor.
    """
    text, at = "=", start
    for path in paths:
        names = path.split(".")
        offset, member = ffi.offsetof(ctype, *names), _member_type(ffi.typeof(ctype), names)
        if member.kind != "primitive" or offset < at:
            raise ValueError(f"{ctype}.{path} is no integer, or out of order")
        size = ffi.sizeof(member)
        is_signed = int(ffi.cast(member, -1)) < 0
        padding = f"{offset - at}x" if offset > at else ""
        text += padding + (CODES[size].lower() if is_signed else CODES[size])
        at = offset + size
    return struct.Struct(text)


def _member_type(ctype: Any, names: list[str]) -> Any:
    for name in names:
        ctype = dict(ctype.fields)[name].type
    return ctype
