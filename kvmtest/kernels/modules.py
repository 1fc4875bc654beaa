"""A kernel's modules
==================

Finds the modules of one kernel release below a folder (``/lib/modules/RELEASE``, a build tree, or
any other), and what to load in which order. What a module says of itself in its .modinfo decides:
it holds for the very bytes that are loaded, which modules.dep of a changed folder may not.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels import files
from kvmtest.kernels.compression import Corrupt, decompress
from kvmtest.kernels.elf import ElfError, machine_name, reading, section_of

__all__ = [
    "DEPENDENCIES",
    "MODULE_FOLDERS",
    "Module",
    "ModuleFolder",
    "NoSuchModule",
    "builtin_names",
    "dependencies",
    "file_name",
    "folder_of_release",
    "module_name",
    "parse_modinfo",
    "parse_module",
]

#: The file in which modprobe finds what a module needs.
DEPENDENCIES = "modules.dep"

#: Where a tree has modules, those of each release in a folder of its name.
MODULE_FOLDERS = ("lib/modules", "usr/lib/modules")

_SIGNED = b"~Module signature appended~\n"
_SIGNATURE_INFO = 12  # The size of struct module_signature, between signature and mark.

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


class NoSuchModule(EnvironmentUnfit):
    """A module is neither in the folder nor built in; ``name`` is its name."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Module:
    """One loadable module: its name as lsmod shows it, and its uncompressed ELF file."""

    name: str
    data: bytes = field(repr=False)
    depends: tuple[str, ...] = ()
    """What must be loaded before it, as its .modinfo has it."""

    vermagic: str = field(default="", compare=False)
    """The kernel that it is built for and what of its configuration modules depend on."""

    @property
    def unsigned(self) -> bytes:
        """Its file without the signature that may follow it (include/linux/module_signature.h)."""
        end = len(self.data) - len(_SIGNED) - _SIGNATURE_INFO
        if end < 0 or not self.data.endswith(_SIGNED):
            return self.data
        (length,) = struct.unpack_from(">I", self.data, end + _SIGNATURE_INFO - 4)
        # A longer one than the file is none: the kernel refuses such a module itself.
        return self.data[: end - length] if length <= end else self.data

    @property
    def loadable(self) -> bytes:
        """Its file without signature, and without debug info if strip is installed.

        Both take time to load.
        """
        data = self.unsigned
        with reading(data) as elf:
            is_large = elf.get_section_by_name(".debug_info") is not None
        strip = shutil.which("strip") if is_large else None
        if strip is None:
            return data
        with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
            whole, stripped = Path(folder, "whole.ko"), Path(folder, "stripped.ko")
            whole.write_bytes(data)
            command = [strip, "--strip-debug", "-o", str(stripped), str(whole)]
            done = subprocess.run(command, capture_output=True, check=False)
            return stripped.read_bytes() if done.returncode == 0 else data


class ModuleFolder:
    """The modules of the kernel ``release`` somewhere below ``root``.

    Those that are not there are taken from the folder ``below``, where one is given.
    """

    def __init__(self, root: Path, release: str, below: "ModuleFolder | None" = None) -> None:
        self.root = root
        self.release = release
        self._below = below
        self._paths, self.builtin = _scan(root, release)
        if below:
            self.builtin = below.builtin
        self._read: dict[str, Module] = {}
        self._taken: dict[str, Path] = {}

    def holds(self, name: str) -> bool:
        """Tell whether there is a file of this module below ``root``, for whatever kernel."""
        return name in self._paths

    def path(self, name: str) -> Path:
        """Return the file of a module below ``root`` that ``load_order`` gave."""
        return self._taken[name]

    @property
    def names(self) -> list[str]:
        """The modules that have a file below ``root``, by name."""
        return sorted(self._paths)

    def load_order(self, *names: str) -> list[Module]:
        """Return the modules to load for ``names``, each after those it depends on.

        Those that are built in are left out. Raises NoSuchModule, and EnvironmentUnfit where the
        modules are of another kernel or damaged.
        """
        order: dict[str, Module] = {}
        self._add(order, [_normal(name) for name in names], ())
        return list(order.values())

    def _add(self, order: dict[str, Module], names: Iterable[str], above: tuple[str, ...]) -> None:
        for name in names:
            if name in order or name in self.builtin:
                continue
            if name in above:
                raise EnvironmentUnfit(
                    f"the modules {', '.join(above)} in {self.root} depend on each other"
                )
            module = self._module(name)
            self._add(order, module.depends, (*above, name))
            order[name] = module

    def _module(self, name: str) -> Module:
        if name not in self._read:
            self._read[name] = self._find(name)
        return self._read[name]

    def _find(self, name: str) -> Module:
        """Read the module ``name`` that is built for this release."""
        if self._below and not self.holds(name):
            return self._below._module(name)
        found: dict[Module, Path] = {}
        others: set[str] = set()
        for path in self._paths.get(name, ()):
            module, release = _read(name, path)
            if release == self.release:
                found.setdefault(module, path)
            else:
                others.add(release)
        if len(found) > 1:
            raise EnvironmentUnfit(
                f"{self.root} holds more than one {name} for kernel {self.release}: "
                f"{', '.join(map(str, found.values()))}; name a folder that holds one"
            )
        for module, self._taken[name] in found.items():
            return module
        if others:
            raise NoSuchModule(
                name,
                f"{self.root} has no matching modules for kernel {self.release}: its {name} is "
                f"built for {', '.join(sorted(others))}; give the modules of that very build",
            )
        if not self._paths and not self.builtin:
            raise NoSuchModule(
                name,
                f"{self.root} has no matching modules for kernel {self.release}: there is no .ko "
                "file below it; give the folder of this kernel's modules",
            )
        raise NoSuchModule(
            name,
            f"kernel {self.release} lacks {name}: it is not below {self.root} and not built in; "
            "give a kernel that has it, or its modules",
        )


def folder_of_release(root: Path, release: str) -> Path:
    """Return the folder of a release's modules where ``root`` is a tree or has several; or root."""
    own = [root / place / release for place in ("", *MODULE_FOLDERS)]
    return next((folder for folder in own if folder.is_dir()), root)


def module_name(path: str) -> str | None:
    """Return the name of the module in a file of this name, or None where it is no module's.

    ``kernel/arch/x86/kvm/kvm-intel.ko.xz`` is ``kvm_intel``.
    """
    file = path.rpartition("/")[2]
    stem, dot, _ = file.partition(".ko")
    return _normal(stem) if dot and file[len(stem) :] in _SUFFIXES else None


def builtin_names(path: Path) -> set[str]:
    """Return the modules that modules.builtin names: a path ``kernel/…/kvm.ko`` on each line."""
    return {name for name in map(module_name, files.text(path).split()) if name}


def dependencies(modules: Sequence[Module]) -> bytes:
    """Return the file modules.dep of modules in the order in which they are loaded."""
    # modules.dep(5) has, unlike .modinfo, all that a module needs, also through others.
    needs: dict[str, list[str]] = {}
    for module in modules:
        direct = [name for name in module.depends if name in needs]
        indirect = [name for each in direct for name in needs[each]]
        needs[module.name] = list(dict.fromkeys([*direct, *indirect]))
    lines = [
        f"{file_name(name)}: {' '.join(map(file_name, others))}".rstrip() + "\n"
        for name, others in needs.items()
    ]
    return "".join(lines).encode()


def file_name(module: str) -> str:
    """Return the name of a module's file, as kernels build it: kvm_intel is in kvm-intel.ko."""
    return f"{module.replace('_', '-')}.ko"


def parse_module(name: str, file: bytes) -> tuple[Module, str]:
    """Return the module in a file's contents, and the kernel release that it is built for.

    Raises Corrupt, ElfError, and EnvironmentUnfit where a library to decompress it is missing.
    """
    data = decompress(file, files.MODULE)
    with reading(data) as elf:
        machine = elf["e_machine"]
        values = parse_modinfo(section_of(elf, ".modinfo"))
    if machine != "EM_X86_64":
        raise ElfError(f"it is built for {machine_name(machine)}, kvmtest is for x86-64")
    depends = tuple(_normal(name) for name in values.get("depends", "").split(",") if name)
    vermagic = values.get("vermagic", "")
    release = vermagic.partition(" ")[0]
    module = Module(name, data, depends, vermagic.strip())
    return module, release or "no kernel (it has no vermagic)"


def parse_modinfo(modinfo: bytes) -> dict[str, str]:
    """Parse the section .modinfo: ``key=value`` strings that end with NUL. The first one counts."""
    values: dict[str, str] = {}
    for entry in modinfo.split(b"\0"):
        key, is_pair, value = entry.decode(errors="replace").partition("=")
        if is_pair:
            values.setdefault(key, value)
    return values


def _normal(name: str) -> str:
    """Return a module's name as the kernel has it, which turns each - into _."""
    return name.replace("-", "_")


def _scan(root: Path, release: str) -> tuple[Mapping[str, list[Path]], frozenset[str]]:
    """Return the files of each module below ``root``, and the names of those built in.

    A modules.builtin further below does not say of which kernel it is, unless its folder does.
    """
    paths: dict[str, list[Path]] = {}
    builtin: set[str] = set()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for file in sorted(names):
            name = module_name(file)
            if name:
                paths.setdefault(name, []).append(Path(folder, file))
            elif file == "modules.builtin" and (
                Path(folder) == root or Path(folder).name == release
            ):
                builtin |= builtin_names(Path(folder, file))
    return paths, frozenset(builtin)


def _read(name: str, path: Path) -> tuple[Module, str]:
    try:
        return parse_module(name, files.read(path, files.MODULE))
    except (Corrupt, ElfError) as error:
        raise EnvironmentUnfit(f"the module {path} can't be taken: {error}") from None
