"""Cuts KVM's modules down to the functions that inspection looks at, as small ELF files.

``python tools/kvm_extract.py FOLDER DEB…`` writes kvm.ko.xz, kvm-intel.ko.xz and kernel.json (the
kernel's version, and where the members are that the code uses) to FOLDER. What is left is what the
compiler made: the functions' bytes, their relocations and symbols.
"""

import json
import lzma
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvmtest.kernels.inspection import offsets_of
from kvmtest.kernels.machine_code import Function, MachineCode, Reference
from kvmtest.kernels.parts import KernelParts
from kvmtest.kernels.series_code import LOOKED_AT, Offsets
from kvmtest.kernels.targets import opened

_TEXT, _DATA, _RELA, _SYMTAB, _STRTAB, _SHSTRTAB = range(1, 7)
_NAMES = (b"", b".text", b".data", b".rela.text", b".symtab", b".strtab", b".shstrtab")
_PLT32 = 4
_GLOBAL_FUNC, _GLOBAL_OBJECT, _GLOBAL = 0x12, 0x11, 0x10


def extract(data: bytes) -> bytes:
    """Return an ELF file with those functions and variables of a module that are looked at."""
    code = MachineCode(data)
    functions = list(_wanted(code))
    text, places = bytearray(), {}
    for function in functions:
        text += b"\xcc" * (-len(text) % 16)
        places[function.name] = len(text)
        text += function.code
    variables = {name: code.data(name) for name in LOOKED_AT.variables if code.data(name)}
    references = list(_references(code, functions, places))
    sizes = {each.name: len(each.code) for each in functions}
    symbols = [(name, _GLOBAL_FUNC, _TEXT, at, sizes[name]) for name, at in places.items()]
    at = 0
    for name, value in variables.items():
        symbols.append((name, _GLOBAL_OBJECT, _DATA, at, len(value)))
        at += len(value)
    known = {symbol[0] for symbol in symbols}
    others = dict.fromkeys(found.symbol for _, found in references if found.symbol not in known)
    symbols += [(name, _GLOBAL, 0, 0, 0) for name in others]
    numbers = {symbol[0]: number for number, symbol in enumerate(symbols, 1)}
    rela = b"".join(
        struct.pack("<QQq", place, numbers[found.symbol] << 32 | _PLT32, found.offset)
        for place, found in references
    )
    strings, table = bytearray(b"\0"), bytearray(24)
    for name, info, section, value, size in symbols:
        table += struct.pack("<IBBHQQ", len(strings), info, 0, section, value, size)
        strings += name.encode() + b"\0"
    return _elf(bytes(text), b"".join(variables.values()), rela, bytes(table), bytes(strings))


def _wanted(code: MachineCode) -> Iterator[Function]:
    """Give the functions that are looked at, each once."""
    named = [each for name in LOOKED_AT.functions for each in code.parts(name)]
    holding = [each for pattern in LOOKED_AT.patterns for each in code.holding(pattern)]
    yield from {each.name: each for each in (*named, *holding)}.values()


def _references(
    code: MachineCode, functions: Iterable[Function], places: dict[str, int]
) -> Iterator[tuple[int, Reference]]:
    """Give where code refers to a symbol, with the addend that is relative to the place."""
    for function in functions:
        for instruction in code.instructions(function):
            found = code.reference(function, instruction)
            # A jump inside of the function moves along with it.
            if not found.symbol or found.symbol == function.name:
                continue
            start = instruction.address - function.address
            field = _field(instruction)
            if field is not None:
                behind = found.offset - (instruction.size - field)
                yield places[function.name] + start + field, Reference(found.symbol, behind)


def _field(instruction: Any) -> int | None:
    """Return where in an instruction the four bytes of its reference are."""
    encoding = instruction.encoding
    offset = encoding.disp_offset or encoding.imm_offset
    return int(offset) if offset else None


def _elf(text: bytes, data: bytes, rela: bytes, symbols: bytes, strings: bytes) -> bytes:
    """Return an ELF file of these sections (/usr/include/elf.h)."""
    names = b"\0".join(_NAMES) + b"\0"
    contents = (b"", text, data, rela, symbols, strings, names)
    # Type, flags, link, info, size of an entry.
    kinds = (
        (0, 0, 0, 0, 0),
        (1, 6, 0, 0, 0),
        (1, 3, 0, 0, 0),
        (4, 0x40, _SYMTAB, _TEXT, 24),
        (2, 0, _STRTAB, 1, 24),
        (3, 0, 0, 0, 0),
        (3, 0, 0, 0, 0),
    )
    body, headers = bytearray(), bytearray()
    for number, (content, (kind, flags, link, info, entry)) in enumerate(
        zip(contents, kinds, strict=True)
    ):
        body += bytes(-len(body) % 16)
        name = names.index(_NAMES[number] + b"\0") if number else 0
        at = 64 + len(body) if number else 0
        fields = (name, kind, flags, 0, at, len(content), link, info, 16 if number else 0, entry)
        headers += struct.pack("<IIQQQQIIQQ", *fields)
        body += content
    body += bytes(-len(body) % 16)
    start = b"\x7fELF\2\1\1" + bytes(9)
    count = len(contents)
    fields = (1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, count, _SHSTRTAB)
    return start + struct.pack("<HHIQQQIHHHHHH", *fields) + bytes(body) + bytes(headers)


def write(parts: KernelParts, folder: Path) -> None:
    """Write a kernel's extract to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for module in ("kvm", "kvm_intel"):
        data = lzma.compress(extract(parts.code[module]), preset=9 | lzma.PRESET_EXTREME)
        (folder / f"{module.replace('_', '-')}.ko.xz").write_bytes(data)
    types = parts.types("kvm")
    offsets = Offsets.of(types) if types else offsets_of(parts)
    assert offsets, f"{parts.origin} has no types that say where KVM's members are"
    kernel = {"package": parts.package, "release": parts.release, "offsets": asdict(offsets)}
    (folder / "kernel.json").write_text(json.dumps(kernel, indent=1) + "\n")


if __name__ == "__main__":
    for kernel_parts in opened(sys.argv[2:]):
        write(kernel_parts, Path(sys.argv[1]))
