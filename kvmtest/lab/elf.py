"""ELF files of a kernel
=====================

Sections and segments of vmlinux, modules and the stub of flat kernels; whatever is wrong with a
file comes out as one error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from kvmtest.errors import EnvironmentUnfit

__all__ = ["ElfError", "reading", "section"]


class ElfError(EnvironmentUnfit):
    """It is no ELF file, or a damaged one."""


def section(data: bytes, name: str) -> bytes:
    """Return the bytes of a section, e.g. ``.BTF``; empty where there is none. Raises ElfError."""
    with reading(data) as file:
        found = file.get_section_by_name(name)
        return bytes(found.data()) if found else b""


@contextmanager
def reading(data: bytes) -> Iterator[Any]:
    """Give the ELFFile of ``data``; what reading it raises becomes an ElfError."""
    from elftools.elf.elffile import ELFFile

    try:
        yield ELFFile(BytesIO(data))
    except EnvironmentUnfit:
        raise
    except Exception as error:  # a damaged file makes elftools raise almost anything
        reason = " ".join(str(error).split())
        raise ElfError(f"its ELF file is damaged ({type(error).__name__}: {reason})") from None
