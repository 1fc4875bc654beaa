"""BPF Type Format
===============

Reads BTF (Documentation/bpf/btf.rst, include/uapi/linux/btf.h), standalone like
/sys/kernel/btf/vmlinux or split over a base like /sys/kernel/btf/kvm, and answers what structs,
enums and functions the kernel's source has.

A name whose string is absent costs one search of the strings; the types are walked once, and only
when a name asked for is there. One split BTF may hold several copies of a struct, so every lookup
by name gives all of them.

pahole leaves a module's type out of its split BTF where the base has the same one, and gives the
module a definition of its own where the two differ (btf__dedup in tools/lib/bpf/btf.c). With
``own_first`` a lookup therefore gives what the module itself was built with.
"""

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from kvmtest.errors import KvmtestError

__all__ = [
    "Btf",
    "BtfError",
    "Enum",
    "Kind",
    "Member",
    "Offset",
    "Parameter",
    "Prototype",
    "Struct",
]


class BtfError(KvmtestError):
    """The bytes are no BTF that can be read here, or contradict themselves."""


class Kind(IntEnum):
    """The kinds of types (``BTF_KIND_*``)."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_MAGIC = 0xEB9F
_VERSION = 1
_HEADER = struct.Struct("=HBBIIIII")
_LAYOUT_HEADER = struct.Struct("=II")
_TYPE_WORDS = 3

# What follows struct btf_type, in 32-bit words: once, and once more for each of vlen elements.
_TRAILER_WORDS: dict[int, tuple[int, int]] = {
    Kind.INT: (1, 0),
    Kind.PTR: (0, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FWD: (0, 0),
    Kind.TYPEDEF: (0, 0),
    Kind.VOLATILE: (0, 0),
    Kind.CONST: (0, 0),
    Kind.RESTRICT: (0, 0),
    Kind.FUNC: (0, 0),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.FLOAT: (0, 0),
    Kind.DECL_TAG: (1, 0),
    Kind.TYPE_TAG: (0, 0),
    Kind.ENUM64: (0, 3),
}

_QUALIFIERS = {Kind.CONST: "const", Kind.VOLATILE: "volatile", Kind.RESTRICT: "restrict"}
_TRANSPARENT = frozenset({*_QUALIFIERS, Kind.TYPEDEF, Kind.TYPE_TAG})
_COMPOSITES = frozenset({Kind.STRUCT, Kind.UNION})
_ENUMS = frozenset({Kind.ENUM, Kind.ENUM64})
_KEYWORDS = {
    Kind.STRUCT: "struct",
    Kind.UNION: "union",
    Kind.ENUM: "enum",
    Kind.ENUM64: "enum",
    Kind.INT: "",
    Kind.FLOAT: "",
    Kind.TYPEDEF: "",
}

# Longer chains of typedefs, qualifiers, pointers and arrays are loops in corrupt data.
_MAX_CHAIN = 64


class _Record(NamedTuple):
    """One ``struct btf_type`` and where its trailer begins in the words of its section."""

    name_off: int
    info: int
    size_or_type: int
    words: "array[int]"
    trailer: int

    @property
    def kind(self) -> int:
        # Seven bits of kind and 24 of vlen: older formats leave the upper ones zero.
        return self.info >> 24 & 0x7F

    @property
    def vlen(self) -> int:
        return self.info & 0xFFFFFF

    @property
    def flag(self) -> bool:
        return bool(self.info >> 31)

    def elements(self, width: int) -> Iterator["array[int]"]:
        """Yield the trailer's elements, ``width`` words each."""
        for at in range(self.trailer, self.trailer + width * self.vlen, width):
            yield self.words[at : at + width]


class _Steps(dict[int, int]):
    """Words from one type to the next by ``info``; BTF has few distinct values of it."""

    def __init__(self, trailers: dict[int, tuple[int, int]]) -> None:
        self._trailers = trailers

    def __missing__(self, info: int) -> int:
        kind = info >> 24 & 0x7F
        if kind not in self._trailers:
            raise BtfError(f"BTF holds a type of unknown kind {kind} and does not give its size")
        once, each = self._trailers[kind]
        step = self[info] = _TYPE_WORDS + once + each * (info & 0xFFFFFF)
        return step


@dataclass(frozen=True, slots=True)
class Offset:
    """Where a member lies in its struct: ``bits`` from the start; ``width`` in bits of a bitfield.

    ``width`` is 0 for an ordinary member.
    """

    bits: int
    width: int = 0

    @property
    def in_bytes(self) -> int:
        """Return the offset in bytes (of the byte that holds its first bit, for a bitfield)."""
        return self.bits // 8


@dataclass(frozen=True, slots=True)
class Member:
    """One direct member of a struct or union (``struct btf_member``); ``name`` may be empty."""

    name: str
    type_id: int
    offset: Offset


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function; a variadic tail is a nameless one of type ``...``."""

    name: str
    type_name: str


@dataclass(frozen=True, slots=True)
class Prototype:
    """A function's parameters in order, and what it returns."""

    name: str
    returns: str
    parameters: tuple[Parameter, ...]

    def index(self, parameter: str) -> int | None:
        """Return the position, from 0, of the parameter of that name, or None."""
        names = [each.name for each in self.parameters]
        return names.index(parameter) if parameter in names else None


@dataclass(frozen=True, slots=True)
class Enum:
    """One definition of an enum: its enumerators and their values."""

    name: str
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class Struct:
    """One definition of a struct or union, ``size`` in bytes."""

    name: str
    type_id: int
    size: int
    is_union: bool
    _btf: "Btf" = field(repr=False, compare=False)

    @property
    def is_inherited(self) -> bool:
        """Tell whether the definition is the base's, not one of the split BTF itself."""
        return self.type_id < self._btf._first_id

    @property
    def members(self) -> tuple[Member, ...]:
        """Return the direct members; anonymous structs and unions are nameless ones."""
        return tuple(self._btf.members_of(self.type_id))

    def has(self, path: str) -> bool:
        """Tell whether there is a member ``path``, e.g. ``vcpu_run`` or ``arch.host_debugctl``."""
        return self.offset(path) is not None

    def offset(self, path: str) -> Offset | None:
        """Return where the member of that dotted path lies, or None; pointers are not followed."""
        return self._btf.offset_in(self.type_id, path)


class Btf:
    """The types and strings of one BTF blob, over its base where it is split.

    With ``own_first`` definitions of the split BTF hide those of the same name in its base.

    Raises :class:`BtfError` on bytes that are not BTF: on construction for the header and the
    strings, on the first lookup for the types.
    """

    def __init__(self, data: bytes, base: "Btf | None" = None, *, own_first: bool = False) -> None:
        self._base = base
        self._own_first = own_first
        header_length, types, strings = _sections(data)
        self._words = array("I", data[types])
        self._strings = data[strings]
        self._trailers = _TRAILER_WORDS | _layouts(data, header_length)
        # What was asked before: questions about several modules share a base.
        self._known_strings: dict[str, frozenset[int]] = {}
        self._known_names: dict[str, list[int]] = {}
        self._strings_start: int = base._strings_end if base else 0
        self._strings_end: int = self._strings_start + len(self._strings)
        self._check_strings()

    @property
    def is_split(self) -> bool:
        """Tell whether it lies over a base."""
        return self._base is not None

    def structs(self, name: str) -> tuple[Struct, ...]:
        """Return all definitions of the struct or union ``name``."""
        return tuple(
            Struct(name, type_id, record.size_or_type, record.kind == Kind.UNION, self)
            for type_id, record in self._named(name, _COMPOSITES)
        )

    def offsets(self, name: str, path: str) -> tuple[Offset, ...]:
        """Return the distinct offsets of ``path`` over all definitions of struct ``name``."""
        found = (each.offset(path) for each in self.structs(name))
        return tuple(dict.fromkeys(offset for offset in found if offset is not None))

    def enums(self, name: str) -> tuple[Enum, ...]:
        """Return all definitions of the enum ``name``; a forward declaration is none."""
        return tuple(
            Enum(name, dict(self._enumerators(record)))
            for _, record in self._named(name, _ENUMS)
            if record.vlen
        )

    def functions(self, name: str) -> tuple[Prototype, ...]:
        """Return the prototypes of all functions ``name``."""
        return tuple(
            self._prototype(name, record.size_or_type)
            for _, record in self._named(name, frozenset({Kind.FUNC}))
        )

    def members_of(self, type_id: int) -> Iterator[Member]:
        """Yield the direct members of the struct or union ``type_id``."""
        for name_off, member_type, offset in self._member_words(self._record(type_id)):
            yield Member(self._string(name_off), member_type, offset)

    def offset_in(self, type_id: int, path: str) -> Offset | None:
        """Return where the member of a dotted path lies in the struct ``type_id``, or None."""
        offset = Offset(0)
        for part in path.split("."):
            names = self._string_offsets(part)
            found = self._find_member(type_id, names) if names else None
            if found is None:
                return None
            type_id, inner = found
            offset = Offset(offset.bits + inner.bits, inner.width)
        return offset

    def type_name(self, type_id: int) -> str:
        """Return a type's name as C spells it, e.g. ``struct kvm_vcpu *``; a callee is ``(...)``.

        Type tags such as ``__user`` are left out.
        """
        declarator = ""
        qualifiers: list[str] = []
        for _ in range(_MAX_CHAIN):
            if type_id == 0:
                return _declaration(qualifiers, "void", declarator)
            record = self._record(type_id)
            kind = record.kind
            if kind in _KEYWORDS or kind == Kind.FWD:
                return _declaration(qualifiers, self._tagged_name(record), declarator)
            type_id = record.size_or_type
            if kind in _QUALIFIERS:
                qualifiers.append(_QUALIFIERS[Kind(kind)])
            elif kind == Kind.PTR:
                declarator = "*" + " ".join(qualifiers) + declarator
                qualifiers = []
            elif kind == Kind.ARRAY:
                type_id, _, count = record.words[record.trailer : record.trailer + 3]
                declarator = f"{_grouped(declarator)}[{count}]"
            elif kind == Kind.FUNC_PROTO:
                declarator = f"{_grouped(declarator)}(...)"
            elif kind != Kind.TYPE_TAG:
                raise BtfError(f"BTF uses a type of kind {kind} where C needs a type")
        raise BtfError(f"BTF type {type_id} is part of a loop")

    @cached_property
    def _heads(self) -> list[int]:
        """Where each type begins, in words."""
        words, end = self._words, len(self._words)
        steps = _Steps(self._trailers)
        heads: list[int] = []
        append = heads.append
        at = 0
        try:
            while at < end:
                append(at)
                at += steps[words[at + 1]]
        except IndexError:
            at = end + 1
        if at != end:
            raise BtfError("BTF's type section ends inside a type; the data is truncated")
        return heads

    @cached_property
    def _name_offs(self) -> bytes:
        """The types' ``name_off``, as bytes: a search then takes no step for each."""
        return array("I", map(self._words.__getitem__, self._heads)).tobytes()

    @cached_property
    def _first_id(self) -> int:
        return self._base._end_id if self._base else 1

    @property
    def _end_id(self) -> int:
        return self._first_id + len(self._heads)

    def _check_strings(self) -> None:
        strings = self._strings
        if (strings and strings[-1]) or (not self._base and strings[:1] != b"\0"):
            raise BtfError("BTF's string section does not begin and end with a zero byte")

    def _string(self, offset: int) -> str:
        if offset < self._strings_start and self._base:
            return self._base._string(offset)
        start = offset - self._strings_start
        if start >= len(self._strings):
            raise BtfError(f"BTF refers to a string at {offset}, outside its string section")
        return self._strings[start : self._strings.index(0, start)].decode(errors="replace")

    def _string_offsets(self, name: str) -> frozenset[int]:
        """Return every offset at which the string ``name`` can be referred to."""
        if name not in self._known_strings:
            self._known_strings[name] = self._find_string(name)
        return self._known_strings[name]

    def _find_string(self, name: str) -> frozenset[int]:
        if not name or not name.isascii() or "\0" in name:
            return frozenset()
        inherited = self._base._string_offsets(name) if self._base else frozenset()
        needle = name.encode() + b"\0"
        found = []
        at = self._strings.find(needle)
        while at >= 0:
            # A string may share the tail of a longer one.
            found.append(self._strings_start + at)
            at = self._strings.find(needle, at + 1)
        return inherited.union(found)

    def _record(self, type_id: int) -> _Record:
        if type_id < self._first_id and self._base:
            return self._base._record(type_id)
        if not self._first_id <= type_id < self._end_id:
            raise BtfError(f"BTF refers to type {type_id}, which it does not hold")
        at = self._heads[type_id - self._first_id]
        words = self._words
        return _Record(words[at], words[at + 1], words[at + 2], words, at + _TYPE_WORDS)

    def _named(self, name: str, kinds: frozenset[Kind]) -> Iterator[tuple[int, _Record]]:
        """Yield id and record of every type of that name and one of ``kinds``, base first."""
        own = self._own_named(name, kinds)
        if self._base and not (own and self._own_first):
            yield from self._base._named(name, kinds)
        yield from own

    def _own_named(self, name: str, kinds: frozenset[Kind]) -> list[tuple[int, _Record]]:
        """Return the same of this BTF without its base."""
        ids = (self._first_id + at for at in self._positions(name))
        records = ((type_id, self._record(type_id)) for type_id in ids)
        return [(type_id, record) for type_id, record in records if record.kind in kinds]

    def _positions(self, name: str) -> list[int]:
        """Return the positions of all types of that name, ascending."""
        if name not in self._known_names:
            offsets = self._string_offsets(name)
            self._known_names[name] = sorted(at for o in offsets for at in self._naming(o))
        return self._known_names[name]

    def _naming(self, name_off: int) -> Iterator[int]:
        """Yield the positions of the types whose name is the string at ``name_off``."""
        needle, width = name_off.to_bytes(4, sys.byteorder), 4
        at = self._name_offs.find(needle)
        while at >= 0:
            if at % width == 0:
                yield at // width
            at = self._name_offs.find(needle, at + 1)

    def _resolve(self, type_id: int) -> int:
        """Follow typedefs, qualifiers and type tags."""
        for _ in range(_MAX_CHAIN):
            record = self._record(type_id) if type_id else None
            if record is None or record.kind not in _TRANSPARENT:
                return type_id
            type_id = record.size_or_type
        raise BtfError(f"BTF type {type_id} is part of a loop")

    def _member_words(self, record: _Record) -> Iterator[tuple[int, int, Offset]]:
        if record.kind not in _COMPOSITES:
            return
        for name_off, type_id, position in record.elements(3):
            # With kind_flag the upper eight bits are a bitfield's width.
            offset = (
                Offset(position & 0xFFFFFF, position >> 24) if record.flag else Offset(position)
            )
            yield name_off, type_id, offset

    def _find_member(self, type_id: int, names: frozenset[int]) -> tuple[int, Offset] | None:
        """Find a member, anonymous structs and unions included: its type and its offset."""
        seen: set[int] = set()
        pending = [(type_id, 0)]
        while pending:
            type_id, start = pending.pop()
            type_id = self._resolve(type_id)
            if type_id in seen or not type_id:
                continue
            seen.add(type_id)
            for name_off, member_type, offset in self._member_words(self._record(type_id)):
                if name_off in names:
                    return member_type, Offset(start + offset.bits, offset.width)
                if not name_off:
                    pending.append((member_type, start + offset.bits))
        return None

    def _enumerators(self, record: _Record) -> Iterator[tuple[str, int]]:
        wide = record.kind == Kind.ENUM64
        bits = 64 if wide else 32
        for words in record.elements(3 if wide else 2):
            value = words[1] | words[2] << 32 if wide else words[1]
            # kind_flag says that the enum is signed.
            negative = record.flag and value >> (bits - 1)
            yield self._string(words[0]), value - (1 << bits) if negative else value

    def _prototype(self, name: str, type_id: int) -> Prototype:
        record = self._record(type_id)
        if record.kind != Kind.FUNC_PROTO:
            raise BtfError(f"BTF's function {name!r} has no prototype")
        parameters = tuple(
            Parameter(self._string(name_off), self.type_name(parameter))
            if name_off or parameter
            else Parameter("", "...")
            for name_off, parameter in record.elements(2)
        )
        return Prototype(name, self.type_name(record.size_or_type), parameters)

    def _tagged_name(self, record: _Record) -> str:
        keyword = (
            ("union" if record.flag else "struct")
            if record.kind == Kind.FWD
            else _KEYWORDS[Kind(record.kind)]
        )
        return f"{keyword} {self._string(record.name_off) or '{...}'}".strip()


def _sections(data: bytes) -> tuple[int, slice, slice]:
    """Return the header's length and the type and string sections of ``struct btf_header``."""
    if len(data) < _HEADER.size:
        raise BtfError(f"BTF of {len(data)} bytes is too short for a header")
    magic, version, flags, header_length, type_off, type_len, str_off, str_len = (
        _HEADER.unpack_from(data)
    )
    if magic == int.from_bytes(_MAGIC.to_bytes(2, "big"), "little"):
        other = "big" if sys.byteorder == "little" else "little"
        raise BtfError(
            f"BTF is {other}-endian, of a foreign machine; read it on a {other}-endian one"
        )
    if magic != _MAGIC:
        raise BtfError(f"not BTF: the magic number is {magic:#06x}, not {_MAGIC:#06x}")
    if version != _VERSION or flags:
        raise BtfError(f"BTF has version {version} and flags {flags:#x}; only version 1 is known")
    if header_length < _HEADER.size:
        raise BtfError(f"BTF's header claims a length of {header_length} bytes")
    if type_off % 4 or type_len % 4:
        raise BtfError("BTF's type section is not made of 32-bit words")
    types = _section(data, "type", header_length + type_off, type_len)
    return header_length, types, _section(data, "string", header_length + str_off, str_len)


def _section(data: bytes, name: str, start: int, length: int) -> slice:
    if start + length > len(data):
        raise BtfError(f"BTF's {name} section ends beyond the data; the data is truncated")
    return slice(start, start + length)


def _layouts(data: bytes, header_length: int) -> dict[int, tuple[int, int]]:
    """Return the trailers of kinds this reader does not know, from BTF's layout section.

    ``struct btf_layout`` (include/uapi/linux/btf.h) is one entry for each kind: bytes once,
    bytes for each element, flags.
    """
    if header_length < _HEADER.size + _LAYOUT_HEADER.size or header_length > len(data):
        return {}
    offset, length = _LAYOUT_HEADER.unpack_from(data, _HEADER.size)
    section = data[_section(data, "layout", header_length + offset, length)]
    entries = struct.iter_unpack("=BBH", section[: len(section) & ~3])
    return {
        kind: (once // 4, each // 4)
        for kind, (once, each, _) in enumerate(entries)
        if kind > max(Kind) and once % 4 == each % 4 == 0
    }


def _grouped(declarator: str) -> str:
    return f"({declarator})" if declarator.startswith("*") else declarator


def _declaration(qualifiers: list[str], base: str, declarator: str) -> str:
    return " ".join([*qualifiers, base, declarator]).rstrip()
