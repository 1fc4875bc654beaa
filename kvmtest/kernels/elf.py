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

__all__ = ["ElfError", "machine_name", "reading", "section", "section_of"]

# include/uapi/linux/elf-em.h
_MACHINES = {
    "EM_386": "32-bit x86",
    "EM_X86_64": "x86-64",
    "EM_ARM": "32-bit ARM",
    "EM_AARCH64": "arm64",
    "EM_RISCV": "RISC-V",
    "EM_PPC64": "PowerPC",
    "EM_S390": "s390",
    "EM_LOONGARCH": "LoongArch",
    "EM_MIPS": "MIPS",
}


class ElfError(EnvironmentUnfit):
    """It is no ELF file, or a damaged one."""


def section(data: bytes, name: str) -> bytes:
    """Return the bytes of a section, e.g. ``.BTF``; empty where there is none. Raises ElfError."""
    with reading(data) as file:
        return section_of(file, name)


def section_of(file: Any, name: str) -> bytes:
    """Return the same of an ELFFile that is being read."""
    found = file.get_section_by_name(name)
    if found and found.compressed:
        # Of what is read here nothing ever is, and there is no bound to what may come out.
        raise ElfError(f"its section {name} is compressed, which no kernel's is; it is damaged")
    return bytes(found.data()) if found else b""


def machine_name(machine: str | int) -> str:
    """Return what an ELF file's ``e_machine``, as elftools has it, is called."""
    return _MACHINES.get(str(machine), f"another machine ({machine})")


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
