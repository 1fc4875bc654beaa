"""Machine code of a kernel
========================

The functions of a module (.ko) or of a vmlinux that has a symbol table, by name, and their
instructions by capstone. Nothing is run.

Compilers split and specialise functions: ``prepare_vmcs02.constprop.0`` and its ``.cold`` part are
the code of prepare_vmcs02. A static function that is called once is mostly inlined, and has no
symbol.
"""

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from kvmtest.kernels.elf import ElfError, reading
from kvmtest.optional_libraries import library

__all__ = ["Function", "MachineCode", "Reference"]

# /usr/include/elf.h
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_STT_OBJECT, _STT_FUNC, _STT_SECTION = 1, 2, 3
_R_X86_64_PC32, _R_X86_64_PLT32 = 2, 4
_RELATIVE = frozenset({_R_X86_64_PC32, _R_X86_64_PLT32})
_ET_REL = "ET_REL"
# The opcode of a call or jump. The distance is only looked ahead at: it may hold such bytes, too.
_CALL = re.compile(rb"[\xe8\xe9](?=(.{4}))", re.S)
# The most functions and bytes of one that are read: a kernel has 100,000, and few beyond 64 KiB.
_MOST_SYMBOLS = 2_000_000
_MOST_BYTES = 1 << 18
_ADDRESSES = (1 << 64) - 1


class Reference(NamedTuple):
    """What an instruction refers to: a symbol, and how far behind it; ("", 0) is nothing known."""

    symbol: str
    offset: int


@dataclass(frozen=True, slots=True)
class Function:
    """The machine code of one symbol."""

    name: str
    """With the compiler's suffix, such as ``.constprop.0``."""

    address: int
    """In its section, or in memory for a vmlinux."""

    section: int
    code: bytes = field(repr=False)

    @property
    def source_name(self) -> str:
        """The name in the source."""
        return _in_source(self.name)


class _Symbol(NamedTuple):
    name: str
    kind: int
    section: int
    value: int
    size: int


class MachineCode:
    """The functions and data of an ELF file's symbols. Raises ElfError on a damaged file.

    Disassembling raises EnvironmentUnfit where capstone is missing.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        with reading(data) as elf:
            if elf["e_machine"] != "EM_X86_64":
                raise ElfError(f"it has no x86-64 machine code ({elf['e_machine']})")
            self._is_relocatable = elf["e_type"] == _ET_REL
            self._headers = [dict(header.header) for header in elf.iter_sections()]
        self._symbols = list(self._read_symbols())
        self._references: dict[int, dict[int, tuple[int, int, int]]] = {}

    def parts(self, name: str) -> list[Function]:
        """Return the code of the function ``name`` of the source; empty where it has no symbol."""
        symbols = self._functions.get(name, [])
        return [found for found in map(self._function, symbols) if found]

    def holding(self, pattern: bytes) -> list[Function]:
        """Return the functions in whose code ``pattern`` occurs, cold parts too."""
        return [
            found
            for symbols in self._functions.values()
            for found in map(self._function, symbols)
            if found and pattern in found.code
        ]

    def targets(self, function: Function) -> set[str]:
        """Return the names, as in the source, of what a function calls or jumps to."""
        named = {reference.symbol for reference in self._relocated(function)}
        return {_in_source(name) for name in named | set(self._direct_calls(function))}

    def data(self, name: str) -> bytes:
        """Return the initial value of the variable ``name``; empty where it has no symbol."""
        for symbol in self._symbols:
            if symbol.kind == _STT_OBJECT and symbol.name == name:
                return self._bytes(symbol)
        return b""

    def instructions(self, function: Function) -> list[Any]:
        """Return the instructions (capstone.CsInsn) of a function, with details."""
        capstone = library("capstone", "reading machine code", "inspect")
        decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        decoder.detail = True
        # Bytes that are no instruction, as of padding, are left out.
        decoder.skipdata = True
        return [each for each in decoder.disasm(function.code, function.address) if each.id]

    def reference(self, function: Function, instruction: Any) -> Reference:
        """Return the symbol that an instruction's call, jump or memory operand refers to."""
        start, end = instruction.address, instruction.address + instruction.size
        if self._is_relocatable:
            relocations = self._relocations(function.section)
            for at in range(start + 1, end):
                if at in relocations:
                    kind, index, addend = relocations[at]
                    behind = addend + (end - at if kind in _RELATIVE else 0)
                    return self._behind(index, behind)
        target = _target(instruction)
        return self._at(function.section, target) if target is not None else Reference("", 0)

    @cached_property
    def _functions(self) -> dict[str, list[_Symbol]]:
        found: dict[str, list[_Symbol]] = {}
        for symbol in self._symbols:
            if symbol.kind == _STT_FUNC and symbol.size and not symbol.name.startswith("__pfx_"):
                found.setdefault(_in_source(symbol.name), []).append(symbol)
        return found

    @cached_property
    def _by_address(self) -> tuple[list[tuple[int, int]], list[_Symbol]]:
        """Symbols of functions and variables by section and address."""
        symbols = sorted(
            (each for each in self._symbols if each.kind in (_STT_FUNC, _STT_OBJECT)),
            key=lambda each: (*self._place(each.section, each.value), each.size),
        )
        return [self._place(each.section, each.value) for each in symbols], symbols

    def _place(self, section: int, address: int) -> tuple[int, int]:
        """Return what symbols are ordered by; in a linked file all sections share addresses."""
        return section if self._is_relocatable else 0, address

    def _at(self, section: int, address: int) -> Reference:
        """Return the symbol at an address, with its offset there."""
        places, symbols = self._by_address
        wanted = self._place(section, address)
        position = bisect_right(places, wanted) - 1
        if position >= 0 and places[position][0] == wanted[0]:
            symbol = symbols[position]
            if address < symbol.value + max(symbol.size, 1):
                return Reference(symbol.name, address - symbol.value)
        return Reference("", 0)

    def _behind(self, index: int, offset: int) -> Reference:
        """Return what is ``offset`` bytes behind the symbol of that index."""
        if not 0 <= index < len(self._symbols):
            raise ElfError("a relocation refers to a symbol that is not there; it is damaged")
        symbol = self._symbols[index]
        if symbol.kind == _STT_SECTION:
            return self._at(symbol.section, symbol.value + offset)
        return Reference(symbol.name, offset)

    def _relocated(self, function: Function) -> Iterator[Reference]:
        """Give what the relocations in a function's code refer to, calls exactly."""
        if not self._is_relocatable:
            return
        relocations = self._relocations(function.section)
        for at in range(function.address, function.address + len(function.code)):
            if at not in relocations:
                continue
            kind, index, addend = relocations[at]
            if kind in _RELATIVE:
                yield self._behind(index, addend + 4)

    def _direct_calls(self, function: Function) -> Iterator[str]:
        """Give the targets of calls and jumps (E8, E9) that need no relocation.

        Found without decoding: bytes that only look like one lead to no function's start.
        """
        for call in _CALL.finditer(function.code):
            end = function.address + call.end(1)
            found = self._at(function.section, end + int.from_bytes(call[1], "little", signed=True))
            if found.symbol and not found.offset:
                yield found.symbol

    def _function(self, symbol: _Symbol) -> Function | None:
        code = self._bytes(symbol)
        if not code:
            return None
        return Function(symbol.name, symbol.value, symbol.section, code)

    def _bytes(self, symbol: _Symbol) -> bytes:
        if not 0 < symbol.section < len(self._headers) or symbol.size > _MOST_BYTES:
            return b""
        header = self._headers[symbol.section]
        if header["sh_type"] == "SHT_NOBITS":
            return bytes(symbol.size if symbol.kind == _STT_OBJECT else 0)
        start = symbol.value - header["sh_addr"]
        if start < 0 or start + symbol.size > header["sh_size"]:
            return b""
        at = header["sh_offset"] + start
        return self._data[at : at + symbol.size]

    def _read_symbols(self) -> Iterator[_Symbol]:
        for header in self._headers:
            if header["sh_type"] != "SHT_SYMTAB":
                continue
            names = self._contents(self._headers[header["sh_link"]])
            table = self._contents(header)
            if len(table) > _MOST_SYMBOLS * _SYMBOL.size:
                raise ElfError("it has more symbols than any kernel; it is damaged")
            whole = table[: len(table) - len(table) % _SYMBOL.size]
            for name, info, _, section, value, size in _SYMBOL.iter_unpack(whole):
                end = names.find(b"\0", name)
                text = names[name:end].decode(errors="replace") if end >= 0 else ""
                yield _Symbol(text, info & 0xF, section, value, size)

    def _relocations(self, section: int) -> dict[int, tuple[int, int, int]]:
        """Return kind, symbol and addend of a section's relocations by offset."""
        if section not in self._references:
            found: dict[int, tuple[int, int, int]] = {}
            for header in self._headers:
                if header["sh_type"] == "SHT_RELA" and header["sh_info"] == section:
                    table = self._contents(header)
                    whole = table[: len(table) - len(table) % _RELA.size]
                    for at, info, addend in _RELA.iter_unpack(whole):
                        found[at] = (info & 0xFFFFFFFF, info >> 32, addend)
            self._references[section] = found
        return self._references[section]

    def _contents(self, header: dict[str, Any]) -> bytes:
        start = header["sh_offset"]
        return self._data[start : start + header["sh_size"]]


def _in_source(name: str) -> str:
    """Return a symbol's name without the compiler's suffix."""
    return name.partition(".")[0]


def _target(instruction: Any) -> int | None:
    """Return the address that a call or jump leads to, or a RIP-relative operand is at."""
    x86 = library("capstone.x86", "reading machine code", "inspect")
    for operand in instruction.operands:
        if operand.type == x86.X86_OP_MEM and operand.mem.base == x86.X86_REG_RIP:
            return int(instruction.address + instruction.size + operand.mem.disp) & _ADDRESSES
        leads = instruction.mnemonic == "call" or instruction.mnemonic.startswith("j")
        if operand.type == x86.X86_OP_IMM and leads:
            # capstone gives addresses of the kernel as negative numbers.
            return int(operand.imm) & _ADDRESSES
    return None
