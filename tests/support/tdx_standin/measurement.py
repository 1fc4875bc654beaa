"""The measurement of a TD's first memory: MRTD.

Intel TDX Module Base Architecture Specification, "TD Measurement"; the same in the ABI
specification of TDH.MEM.PAGE.ADD and TDH.MR.EXTEND.
"""

import hashlib

CHUNK = 256
_BLOCK = 128
_GPA_AT = 16


def _block(what: bytes, gpa: int) -> bytes:
    """Return the 128 bytes that stand for a step: its name, and the GPA at byte 16."""
    return (what.ljust(_GPA_AT, b"\0") + gpa.to_bytes(8, "little")).ljust(_BLOCK, b"\0")


class Measurement:
    """SHA-384 over the steps in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha384()

    def add_page(self, gpa: int) -> None:
        """TDH.MEM.PAGE.ADD: that a page is there, not what it holds."""
        self._digest.update(_block(b"MEM.PAGE.ADD", gpa))

    def extend(self, gpa: int, page: bytes) -> None:
        """TDH.MR.EXTEND for each 256 bytes of a page."""
        for at in range(0, len(page), CHUNK):
            self._digest.update(_block(b"MR.EXTEND", gpa + at))
            self._digest.update(page[at : at + CHUNK])

    def value(self) -> bytes:
        return self._digest.digest()
