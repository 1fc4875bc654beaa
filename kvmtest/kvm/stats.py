"""Binary statistics
=================

The counters that KVM keeps for a VM or a vCPU (exits, for one), read from the descriptor that
KVM_GET_STATS_FD returns (Documentation/virt/kvm/api.rst, 4.133).
"""

import os
import struct
from typing import NamedTuple

from kvmtest._native import lib

from .struct_formats import unpacker

__all__ = ["Statistic", "Stats"]

HEADER = unpacker("struct kvm_stats_header", "name_size", "num_desc", "id_offset", "desc_offset",
                  "data_offset")  # fmt: skip
# Without the name, which follows it.
DESCRIPTOR = unpacker("struct kvm_stats_desc", "flags", "exponent", "size", "offset", "bucket_size")


class Statistic(NamedTuple):
    """One counter's description: ``type`` and ``unit`` are KVM_STATS_TYPE_* and _UNIT_*."""

    name: str
    type: int
    unit: int
    exponent: int
    size: int
    offset: int


_NUMBER = struct.Struct("=Q")


class Stats:
    """The counters of one VM or vCPU; :meth:`read` returns all of them at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        header = os.pread(self._fd, HEADER.size, 0)
        name_size, count, id_at, descriptors_at, self._data_offset = HEADER.unpack(header)
        self.id = os.pread(self._fd, name_size, id_at).split(b"\0")[0].decode()
        self.descriptors = self._read_descriptors(count, name_size, descriptors_at)
        self._offsets = {d.name: d.offset for d in self.descriptors}
        self._data_size = max((d.offset + 8 * d.size for d in self.descriptors), default=0)

    def _read_descriptors(self, count: int, name_size: int, offset: int) -> tuple[Statistic, ...]:
        step = DESCRIPTOR.size + name_size
        block = os.pread(self._fd, count * step, offset)
        found = []
        for at in range(0, count * step, step):
            flags, exponent, size, where, _bucket = DESCRIPTOR.unpack_from(block, at)
            name = block[at + step - name_size : at + step].split(b"\0")[0].decode()
            unit = flags & lib.KVM_STATS_UNIT_MASK
            found.append(
                Statistic(name, flags & lib.KVM_STATS_TYPE_MASK, unit, exponent, size, where)
            )
        return tuple(found)

    def read(self) -> dict[str, int | tuple[int, ...]]:
        """Return every counter by name; histograms are tuples."""
        data = os.pread(self._fd, self._data_size, self._data_offset)
        values: dict[str, int | tuple[int, ...]] = {}
        for d in self.descriptors:
            numbers = struct.unpack_from(f"={d.size}Q", data, d.offset)
            values[d.name] = numbers[0] if d.size == 1 else numbers
        return values

    def read_one(self, name: str) -> int:
        """Return one counter, much faster than all of them; a histogram's first bucket.

        Raises KeyError for a name that KVM does not have.
        """
        data = os.pread(self._fd, _NUMBER.size, self._data_offset + self._offsets[name])
        (number,) = _NUMBER.unpack(data)
        return int(number)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Stats":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
