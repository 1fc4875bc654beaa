"""SMIs by a write that the firmware refuses
========================================

Writes a new UEFI variable without NON_VOLATILE. Once the system runs, firmware refuses to create
one (UEFI 2.10, 8.2, SetVariable); EDK2 refuses in SMM. So nothing is stored, and the kernel does
not limit the rate. Firmware that refuses without an SMI raises none, which the count shows.

The write needs a file in efivarfs, which the journal creates and removes at the end. Should the
firmware create the variable after all, removing the file deletes the variable too
(fs/efivarfs/vars.c, efivar_entry_delete), and the source is given up.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmtest.errors import KvmtestError
from kvmtest.host.machine import Machine
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Prepared, Triggered
from kvmtest.smi.sources.efivarfs import EFIVARS, LONGEST_S, writable

if TYPE_CHECKING:
    from kvmtest.host.changes.journal import Journal

__all__ = ["find"]

#: BOOTSERVICE_ACCESS and RUNTIME_ACCESS without NON_VOLATILE, and a byte.
_WRITE = (2 | 4).to_bytes(4, "little") + b"\1"

FASTEST_HZ = 100.0

#: What efi_status_to_err (drivers/firmware/efi) makes of the ways to say no: EFI_INVALID_PARAMETER
#: and what it does not know, EFI_SECURITY_VIOLATION, EFI_WRITE_PROTECTED.
_REFUSALS = frozenset({errno.EINVAL, errno.EACCES, errno.EROFS})


def find(machine: Machine, _: str) -> Prepared | Missing:
    """Return the source, or what is missing."""
    missing = writable(machine.tree)
    if missing is not None:
        return missing
    describes = "has the firmware refuse a UEFI variable that is not to be kept"
    changes = "a file of efivarfs, removed again"

    @contextmanager
    def prepared(journal: "Journal") -> Iterator[Triggered]:
        # A name that nobody else has, so that nothing of anybody's is written or removed.
        name = f"kvmtest-{uuid.uuid4()}"
        with journal.made(f"{EFIVARS}/{name}") as fd:

            @contextmanager
            def opened() -> Iterator[Fire]:
                yield lambda: _be_refused(fd, name)

            yield Triggered(
                "efivar-refused", describes, changes, FASTEST_HZ, longest_s=LONGEST_S, opened=opened
            )

    return Prepared("efivar-refused", describes, changes, FASTEST_HZ, prepared)


def _be_refused(fd: int, name: str) -> None:
    """Write what is to be refused. Raises KvmtestError where it is not."""
    try:
        os.write(fd, _WRITE)
    except OSError as error:
        if error.errno in _REFUSALS:
            return
        raise KvmtestError(
            f"writing the UEFI variable {name}: {error.strerror}; use another SMI source"
        ) from error
    raise KvmtestError(
        f"the firmware made the UEFI variable {name}, which it should refuse; it is deleted again; "
        "use another SMI source"
    )
