"""Guest images
============

The assembled guests as they were linked: bytes for guest memory, and symbols. Sources are in the
folder guests/ of the project; the build puts the images beside this module.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kvmtest.errors import EnvironmentUnfit

__all__ = ["Image", "load"]

IMAGES = Path(__file__).parent / "images"


@dataclass(frozen=True, slots=True)
class Image:
    """One guest: ``data`` goes to guest-physical ``address``, symbols are absolute."""

    name: str
    address: int
    data: bytes
    symbols: dict[str, int]


@cache
def load(name: str, folder: Path = IMAGES) -> Image:
    """Return a guest's image, e.g. "long".

    Raises :class:`~kvmtest.errors.EnvironmentUnfit` where the image is missing or no ELF file.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    path = folder / f"{name}.elf"
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            segment = next(s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD")
            table: Any = elf.get_section_by_name(".symtab")
            symbols = {s.name: s["st_value"] for s in table.iter_symbols() if s.name}
            return Image(name, segment["p_paddr"], segment.data(), symbols)
    except FileNotFoundError:
        problem = "the image is missing"
    except (ELFError, StopIteration, AttributeError, OSError) as error:
        problem = f"the image is not usable ({error or type(error).__name__})"
    raise EnvironmentUnfit(
        f"guest {name}: {problem} at {path}; build it again (make, or pip install)"
    )
