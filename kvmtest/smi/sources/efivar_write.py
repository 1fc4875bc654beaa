"""SMIs by writing a UEFI variable's own bytes back
==============================================

SetVariable enters SMM. EDK2 leaves its store alone when a variable already has these bytes and
attributes; other firmware may write them to flash memory, which wears. So this source is opt-in,
and the journal keeps the variable's bytes.

Refused are variables that decide what the machine boots, those that are more than bytes, and those
that efivarfs makes immutable because a firmware may depend on them (fs/efivarfs/vars.c).
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvmtest.errors import KvmtestError
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Prepared, Triggered, opened_file
from kvmtest.smi.sources.efivarfs import EFIVARS, GLOBAL, LONGEST_S, variables, writable

if TYPE_CHECKING:
    from kvmtest.host.changes.journal import Journal

__all__ = ["find"]

FASTEST_HZ = 10.0

#: Short ones that only choose a language or a time to wait.
_FAVOURITES = tuple(f"{name}-{GLOBAL}" for name in ("PlatformLang", "Lang", "Timeout"))

#: NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS: what is written back has just these.
_ATTRIBUTES = 1 | 2 | 4
#: What others mean (UEFI 2.10, 8.2: GetVariable).
_OTHERS = {
    0x8: "a hardware error record",
    0x10: "authenticated",
    0x20: "authenticated, by time",
    0x40: "one that writes append to",
    0x80: "authenticated, by a certificate",
}

#: Names that are never written, of whichever GUID, and why.
_NEVER: Mapping[str, str] = {
    r"(Boot|Driver|SysPrep|OsRecovery|PlatformRecovery)([0-9A-F]{4}|Order)": "what is booted",
    r"Boot(Next|Current|OptionSupport)|Key[0-9A-F]{4}": "what is booted",
    r"OsIndications.*|Capsule.*|.*Capsule": "what the firmware is to do at the next boot",
    r"PK|KEK|db|dbx|dbt|dbr|dev(auth)?db|(PK|KEK|dbx?|dbt|dbr)Default|certdb.*": "Secure Boot",
    r"SecureBoot.*|SetupMode|AuditMode|DeployedMode|CustomMode|VendorKeys": "Secure Boot",
    r"SignatureSupport|Mok.*|Shim.*|SbatLevel.*|Sbat.*": "Secure Boot",
    r".*Setup.*|.*Config.*": "the firmware's own settings",
    r"HwErrRec.*|MTC|MemoryOverwriteRequest.*|TPM.*|Tcg.*": "the firmware's own state",
}


def find(machine: Machine, variable: str) -> Prepared | Missing:
    """Return the source that writes ``variable`` (NAME-GUID; "": a harmless one) back.

    Or return what is missing, or why it is not written.
    """
    found = _variable(machine.tree, variable)
    if isinstance(found, Missing):
        return found
    describes = f"writes the UEFI variable {found.name} with the bytes that it has"
    changes = f"{found.name}, which has the same bytes then"

    @contextmanager
    def prepared(journal: "Journal") -> Iterator[Triggered]:
        data = journal.keep_variable(f"{EFIVARS}/{found.name}")
        refusal = _refusal(found.name, data)
        if refusal:
            raise KvmtestError(f"{refusal}; use another SMI source")

        @contextmanager
        def opened() -> Iterator[Fire]:
            with opened_file(found, os.O_WRONLY, "choose another") as fd:
                yield lambda: _write(fd, found, data)

        yield Triggered("efivar-write", describes, changes, FASTEST_HZ, LONGEST_S, opened)

    return Prepared("efivar-write", describes, changes, FASTEST_HZ, prepared)


def _variable(tree: Tree, wanted: str) -> Path | Missing:
    """Return the file of the variable to be written."""
    missing, there = writable(tree), variables(tree)
    if missing is not None:
        return missing
    if isinstance(there, Missing):
        return there
    if wanted and wanted not in there:
        return Missing(f"there is no UEFI variable {wanted}", f"choose one of {EFIVARS}")
    refusals = []
    for name in [wanted] if wanted else [n for n in _FAVOURITES if n in there]:
        data = tree.read_bytes(f"{EFIVARS}/{name}")
        refusal = _refusal(name, data or b"") or _no_access(there[name])
        if not refusal:
            return there[name]
        refusals.append(refusal)
    if not refusals:
        refusals.append("none of the UEFI variables that are surely harmless to write is here")
    return Missing("; ".join(refusals), "name another one: efivar-write:NAME-GUID")


def _refusal(variable: str, data: bytes) -> str | None:
    """Return why a variable, NAME-GUID, that holds ``data`` is not written, or None."""
    name = re.sub("-[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$", "", variable)
    for pattern, subject in _NEVER.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return f"the UEFI variable {name} is never written: it is about {subject}"
    if len(data) <= 4:
        return f"the UEFI variable {name} can't be read, or is empty"
    attributes = int.from_bytes(data[:4], "little")
    for bit, what in _OTHERS.items():
        if attributes & bit:
            return f"the UEFI variable {name} is never written: it is {what}"
    if attributes != _ATTRIBUTES:
        return f"the UEFI variable {name} has attributes {attributes:#x}, not {_ATTRIBUTES:#x}"
    return None


def _no_access(variable: Path) -> str | None:
    if os.access(variable, os.W_OK, effective_ids=True):
        return None
    return f"no permission to write {variable}: it is immutable (see lsattr), or you are not root"


def _write(fd: int, variable: Path, data: bytes) -> None:
    try:
        os.pwrite(fd, data, 0)
    except OSError as error:
        raise KvmtestError(f"can't write {variable}: {error.strerror}; choose another") from error
