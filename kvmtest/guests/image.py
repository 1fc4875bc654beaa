"""Guest images
============

The linked guests: bytes for guest memory, and symbols. The sources are in the project's folder
guests/; the build puts the images beside this module.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kvmtest._native import lib
from kvmtest.errors import EnvironmentUnfit

__all__ = ["Image", "load"]

IMAGES = Path(__file__).parent / "images"
# The symbols that modes.py and the check of the size need.
NEEDED = {"start", "exception_stubs", "interrupt", "image_end"}


@dataclass(frozen=True, slots=True)
class Image:
    """One guest: ``data`` belongs at guest-physical ``address``; symbols are addresses."""

    name: str
    address: int
    data: bytes
    symbols: dict[str, int]


@cache
def load(name: str, folder: Path = IMAGES) -> Image:
    """Return a guest's image, e.g. "long".

    Raises :class:`~kvmtest.errors.EnvironmentUnfit` where the image is missing or no ELF file.
    """
    path = folder / f"{name}.elf"
    try:
        return _read(name, path)
    except FileNotFoundError:
        problem = "the image is missing"
    except Exception as error:  # a damaged file makes elftools raise almost anything
        problem = (
            f"the image is not usable ({type(error).__name__}: {' '.join(str(error).split())})"
        )
    raise EnvironmentUnfit(
        f"guest {name}: {problem} at {path}; build it again (make, or pip install)"
    )


def _read(name: str, path: Path) -> Image:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        elf = ELFFile(file)
        segment = next(s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD")
        table: Any = elf.get_section_by_name(".symtab")
        symbols = {s.name: s["st_value"] for s in table.iter_symbols() if s.name}
        image = Image(name, segment["p_paddr"], segment.data(), symbols)
    if not symbols.keys() >= NEEDED:
        raise ValueError(f"without symbols {', '.join(sorted(NEEDED - symbols.keys()))}")
    if image.address + len(image.data) != symbols["image_end"]:
        raise ValueError("its bytes do not end at image_end")
    if image.address != lib.GUEST_IMAGE:
        raise ValueError(f"linked at {image.address:#x}")
    return image
