"""SMIs by Dell's systems management driver
========================================

The driver dcdbas (drivers/platform/x86/dell/dcdbas.c) passes a command to the firmware of Dell's
servers by an SMI, on CPU 0. The firmware names the port and the byte in SMBIOS structure 0xda
(drivers/platform/x86/dell/dell-smbios-smm.c); the command reads the first token listed there.
Dell's own programs use the same buffer, and share no lock with this source, so it is opt-in.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest.errors import KvmtestError
from kvmtest.host.machine import Machine
from kvmtest.host.tree import Tree
from kvmtest.missing import Missing
from kvmtest.smi.source import Fire, Triggered

__all__ = ["find"]

_FOLDER = "/sys/devices/platform/dcdbas"
_DATA, _REQUEST = f"{_FOLDER}/smi_data", f"{_FOLDER}/smi_request"
#: SMBIOS structures of type 0xda, one for each instance.
_CALLING_INTERFACE = "/sys/firmware/dmi/entries/218-*/raw"

# Header, command port, command byte, commands supported; then tokens: id, location, value.
_STRUCTURE, _TOKEN = struct.Struct("<BBHHBI"), struct.Struct("<HHH")
_NO_TOKEN = 0xFFFF
# struct smi_cmd before its buffer: magic "SMI1", EBX, ECX ("BSI1"), port, byte, reserved. EBX is
# the driver's to set: the buffer's address.
_COMMAND, _MAGIC, _SIGNATURE = struct.Struct("<IIIHBB"), 0x534D4931, 0x42534931
# struct calling_interface_buffer: class and select of the command, four words in, four out.
_BUFFER = struct.Struct("<HH4I4I")
_READ_TOKEN = (0, 0)

_CALL, _CLEAR = b"1", b"0"


def find(machine: Machine, _: str) -> Triggered | Missing:
    """Return the source, or what is missing."""
    tree = machine.tree
    if not tree.exists(_REQUEST):
        return Missing(
            f"there is no {_REQUEST}: the driver dcdbas is not loaded",
            "on a server made by Dell: modprobe dcdbas",
        )
    command = _command(machine)
    if isinstance(command, Missing):
        return command
    for name in (_DATA, _REQUEST):
        if not os.access(tree.path(name), os.W_OK, effective_ids=True):
            return Missing(f"no permission to write {tree.path(name)}", "run as root")

    @contextmanager
    def opened() -> Iterator[Fire]:
        def fire() -> None:
            # Written each time: the firmware's answer overwrites the buffer.
            _write(tree, _DATA, command)
            _write(tree, _REQUEST, _CALL)

        yield fire
        _write(tree, _REQUEST, _CLEAR)

    return Triggered(
        "dcdbas",
        "makes Dell's firmware read one of its tokens, through the driver dcdbas",
        "the driver's buffer, cleared at the end",
        fastest_hz=20,
        longest_s=0.5,
        opened=opened,
    )


def _command(machine: Machine) -> bytes | Missing:
    """Return the command that reads the first token."""
    fadt = machine.fadt
    refused = {} if isinstance(fadt, Missing) else fadt.refused
    for path in machine.tree.glob(_CALLING_INTERFACE):
        try:
            raw = path.read_bytes()
        except OSError as error:
            return Missing(f"can't read {path}: {error.strerror}", "run as root")
        if len(raw) < _STRUCTURE.size + _TOKEN.size:
            continue
        _, _, _, port, byte, _ = _STRUCTURE.unpack_from(raw)
        token, location, _ = _TOKEN.unpack_from(raw, _STRUCTURE.size)
        if byte in refused:
            return Missing(
                f"the firmware takes commands by {byte:#x}, which is the FADT's {refused[byte]}"
            )
        if port and token != _NO_TOKEN:
            header = _COMMAND.pack(_MAGIC, 0, _SIGNATURE, port, byte, 0)
            return header + _BUFFER.pack(*_READ_TOKEN, location, 0, 0, 0, 0, 0, 0, 0)
    return Missing(
        "no SMBIOS structure 0xda says how the firmware takes commands",
        "modprobe dmi-sysfs, or use another SMI source",
    )


def _write(tree: Tree, name: str, data: bytes) -> None:
    path = tree.path(name)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        raise KvmtestError(
            f"can't write {path}: {error.strerror}; use another SMI source"
        ) from error
