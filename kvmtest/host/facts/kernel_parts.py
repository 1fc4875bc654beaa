"""The running kernel's parts
===========================

What of the running kernel can be examined: the types that it shows in /sys/kernel/btf, and the
machine code of its modules as they are installed. Neither asks for root.
"""

from dataclasses import replace

from kvmtest.errors import EnvironmentUnfit
from kvmtest.host.facts.kernel import Kernel
from kvmtest.host.facts.modules import Place, whereabouts
from kvmtest.host.tree import Tree
from kvmtest.kernels import installed
from kvmtest.kernels.elf import section
from kvmtest.kernels.parts import MODULES, PARTS, VMLINUX, KernelParts
from kvmtest.missing import Missing

__all__ = ["running_parts"]

_BTF = "/sys/kernel/btf"
_BUILD_ID = ".note.gnu.build-id"


def running_parts(tree: Tree) -> KernelParts | Missing:
    """Return the parts of the kernel that runs.

    A module that is loaded counts as it is loaded; of one that is not, the file counts which
    modprobe would load.
    """
    kernel = Kernel.of(tree)
    if isinstance(kernel, Missing):
        return kernel
    files = _installed(tree, kernel.release)
    places = {name: _place(tree, name) for name in MODULES}
    builtin = frozenset(name for name, place in places.items() if place is Place.BUILT_IN)
    shown = {name: tree.read_bytes(f"{_BTF}/{name}") for name in PARTS}
    parts = replace(
        files,
        release=kernel.release,
        version=kernel.version,
        builtin=builtin,
        btf={name: types for name, types in shown.items() if types},
        # The types of a loaded module are over vmlinux, whatever base its file brings along.
        btf_bases={},
        code={},
    )
    if VMLINUX not in parts.btf:
        parts = parts.lacking(f"the kernel shows no types: {_BTF}/{VMLINUX} can't be read")
    for name in MODULES:
        if places[name] is Place.LOADED:
            parts = _with_loaded(tree, parts, files, name)
        elif name in files.code:
            types, base = (each.get(name, b"") for each in (files.btf, files.btf_bases))
            parts = parts.with_part(name, files.code[name], types, base)
    if "kvm" not in {*parts.btf, *parts.code, *builtin}:
        parts = parts.lacking("module kvm is neither loaded nor installed: modprobe kvm_intel")
    return parts


def _place(tree: Tree, name: str) -> Place:
    """Return where a module is; a machine without modules has no list of those built in."""
    place = whereabouts(tree, name)
    # A module that is built in has a folder for its parameters.
    is_there = place is not Place.LOADED and tree.exists(f"/sys/module/{name}")
    return Place.BUILT_IN if is_there else place


def _installed(tree: Tree, release: str) -> KernelParts:
    """Return the parts of the modules in /lib/modules."""
    name = "the running kernel"
    # A release that is damaged names no folder, and may hold what no path can.
    if not tree.exists(f"/lib/modules/{release}"):
        return KernelParts(name, name, release)
    folder = tree.path(f"/lib/modules/{release}")
    try:
        found = [each for each in installed.under(folder) if each.release == release]
    except (EnvironmentUnfit, OSError) as error:
        return KernelParts(name, name, release, lacks=(str(error),))
    for kernel in found:
        return replace(kernel, image=None).parts(name, name)
    return KernelParts(name, name, release)


def _with_loaded(tree: Tree, parts: KernelParts, files: KernelParts, name: str) -> KernelParts:
    """Add the code of a loaded module where its file is of the same build."""
    if name not in parts.btf:
        parts = parts.lacking(f"module {name} is loaded and shows no types in {_BTF}")
    if name not in files.code:
        return parts.lacking(f"module {name} is loaded, and no file of it is in /lib/modules")
    loaded = tree.read_bytes(f"/sys/module/{name}/notes/{_BUILD_ID}")
    if not loaded or loaded != section(files.code[name], _BUILD_ID):
        return parts.lacking(
            f"module {name} is loaded from another build than its file in /lib/modules"
        )
    return parts.with_part(name, files.code[name])
