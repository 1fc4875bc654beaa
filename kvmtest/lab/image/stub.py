"""Stubs
=====

Code of kvmtest's own that runs in a machine before its kernel does, as the build left it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.elf import ElfError, reading

__all__ = ["Stub"]


@dataclass(frozen=True, slots=True)
class Stub:
    """The bytes that are loaded at ``base``; ``symbols`` are addresses."""

    data: bytes
    base: int
    symbols: dict[str, int]

    @classmethod
    def read(cls, path: Path, what: str, *needed: str) -> "Stub":
        """Read an ELF file that has the symbols ``needed``.

        Raises EnvironmentUnfit, which says ``what`` it is, where it is missing or damaged.
        """
        try:
            with reading(path.read_bytes()) as file:
                segment = next(s for s in file.iter_segments() if s["p_type"] == "PT_LOAD")
                table: Any = file.get_section_by_name(".symtab")
                symbols = {s.name: s["st_value"] for s in table.iter_symbols()}
                return cls(
                    segment.data(), segment["p_vaddr"], {name: symbols[name] for name in needed}
                )
        except (OSError, KeyError, StopIteration, AttributeError, ElfError) as error:
            raise EnvironmentUnfit(
                f"{what}, {path}, is not usable ({error}); build it again (make, or pip install)"
            ) from None
