"""Makes BTF, type by type (Documentation/bpf/btf.rst)."""

import struct

from kvmtest.kernels.btf import Kind


class Blob:
    """Builds BTF type by type; each method returns the new type's id."""

    def __init__(self, base: "Blob | None" = None) -> None:
        self.types = bytearray()
        self.strings = bytearray() if base else bytearray(b"\0")
        self.strings_start = base.strings_end if base else 0
        self.next_id: int = base.next_id if base else 1

    @property
    def strings_end(self) -> int:
        return self.strings_start + len(self.strings)

    def string(self, text: str) -> int:
        if not text:
            return 0
        at = self.strings_end
        self.strings += text.encode() + b"\0"
        return at

    def add(
        self,
        kind: int,
        name: str = "",
        size_or_type: int = 0,
        *trailer: int,
        vlen: int = 0,
        flag: bool = False,
    ) -> int:
        info = kind << 24 | vlen | flag << 31
        words = (self.string(name), info, size_or_type, *trailer)
        self.types += struct.pack(f"={len(words)}I", *words)
        self.next_id += 1
        return self.next_id - 1

    def int_(self, name: str = "int", size: int = 4) -> int:
        return self.add(Kind.INT, name, size, size * 8)

    def struct_(
        self,
        name: str,
        *members: tuple[str, int, int],
        kind: Kind = Kind.STRUCT,
        size: int = 8,
        flag: bool = False,
    ) -> int:
        words = [w for name, of, at in members for w in (self.string(name), of, at)]
        return self.add(kind, name, size, *words, vlen=len(members), flag=flag)

    def enum(self, name: str, *, signed: bool = False, **values: int) -> int:
        words = [w for key, value in values.items() for w in (self.string(key), value & 0xFFFFFFFF)]
        return self.add(Kind.ENUM, name, 4, *words, vlen=len(values), flag=signed)

    def enum64(self, name: str, *, signed: bool = False, **values: int) -> int:
        words = [
            word
            for key, value in values.items()
            for word in (self.string(key), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF)
        ]
        return self.add(Kind.ENUM64, name, 8, *words, vlen=len(values), flag=signed)

    def function(self, name: str, returns: int, *parameters: tuple[str, int]) -> int:
        words = [w for key, of in parameters for w in (self.string(key), of)]
        proto = self.add(Kind.FUNC_PROTO, "", returns, *words, vlen=len(parameters))
        return self.add(Kind.FUNC, name, proto)

    def bytes(self, layout: bytes = b"") -> bytes:
        extra = struct.pack("=II", len(self.types), len(layout)) if layout else b""
        sections = bytes(self.types) + layout
        header = struct.pack(
            "=HBBIIIII",
            0xEB9F,
            1,
            0,
            24 + len(extra),
            0,
            len(self.types),
            len(sections),
            len(self.strings),
        )
        return header + extra + sections + bytes(self.strings)
