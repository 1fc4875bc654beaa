"""The machine's image
===================

The kernel's command line in a lab's machine, and kvmtest's own part of its first root file system:
the kernel's modules, and the programs of kvmtest/lab/inside.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmtest.kernels.modules import DEPENDENCIES, Module, dependencies, file_name
from kvmtest.lab.digest import of_files

from .cpio import Entry, File

__all__ = [
    "COMMAND_LINE",
    "MODULE_ARGUMENTS",
    "digest",
    "module_entries",
    "own_entries",
]

_INSIDE = Path(__file__).parents[1] / "inside"

#: For a slow, small, emulated machine: no waiting, probing, self-tests or mitigations.
COMMAND_LINE = " ".join(
    [
        "console=ttyS0,115200", "quiet", "rdinit=/init", "panic=1", "nokaslr", "mitigations=off",
        "nmi_watchdog=0", "msr.allow_writes=on", "8250.nr_uarts=1", "random.trust_cpu=on",
        "audit=0", "init_on_alloc=0", "selinux=0", "apparmor=0", "rodata=off", "cryptomgr.notests",
        "initcall_blacklist=load_system_certificate_list,bpf_tcp_ca_kfunc_init,jent_mod_init,"
        "bpf_dummy_struct_ops_init,trace_eval_init",
    ]
)  # fmt: skip

# The modules that the agent imports before the machine is saved: all of a run but kvmtest's own.
_IMPORTS = (
    "_cffi_backend", "argparse", "array", "concurrent.futures", "dataclasses",
    "difflib", "elftools.elf.elffile", "fastjsonschema", "fcntl", "inspect", "lzma",
    "mmap", "psutil", "rich.console", "rich.status", "rich.table",
    "rich.text", "secrets", "select", "shlex", "socket", "struct", "subprocess", "tarfile",
    "tempfile", "threading", "xml.etree.ElementTree", "xml.sax.saxutils", "zlib",
)  # fmt: skip

#: The arguments that a machine's modules are loaded with at boot, by module.
MODULE_ARGUMENTS: dict[str, tuple[str, ...]] = {"kvm_intel": ("nested=1",)}


def own_entries(modules: Sequence[Module]) -> dict[str, Entry]:
    """Return the programs inside and their data; ``modules`` are loaded in this order."""
    lines = [" ".join([m.name, *MODULE_ARGUMENTS.get(m.name, ())]) + "\n" for m in modules]
    return {
        "init": File((_INSIDE / "init").read_bytes(), executable=True),
        "lab/agent.py": File((_INSIDE / "agent.py").read_bytes()),
        "lab/port": File((_INSIDE / "port").read_bytes(), executable=True),
        "lab/imports": File(json.dumps(_IMPORTS).encode()),
        "lab/modules": File("".join(lines).encode()),
    }


def module_entries(release: str, modules: Sequence[Module]) -> dict[str, Entry]:
    """Return modules and their indexes where modprobe looks for them.

    The modules come without their signatures. The machine has no keys (COMMAND_LINE), and finding
    that out takes the kernel longer than the rest of loading a module.
    """
    folder = f"lib/modules/{release}"
    entries: dict[str, Entry] = {f"{folder}/{file_name(m.name)}": File(m.unsigned) for m in modules}
    entries[f"{folder}/{DEPENDENCIES}"] = File(dependencies(modules))
    for index in ("modules.alias", "modules.symbols", "modules.builtin"):
        entries[f"{folder}/{index}"] = File(b"")
    return entries


def digest(entries: Mapping[str, Entry]) -> str:
    """Return a digest of entries by name, kind and content."""
    return of_files({name: repr(entry).encode() for name, entry in entries.items()})
