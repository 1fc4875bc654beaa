"""The parts of a kernel
=====================

What of one kernel can be examined without booting it: its types (BTF), its machine code, its
source code; and of which kernel these are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["PARTS", "KernelParts"]

#: The image and the modules that hold KVM, as lsmod names modules.
PARTS = ("vmlinux", "kvm", "kvm_intel", "kvm_amd")


@dataclass(frozen=True)
class KernelParts:
    """One kernel's parts, each where it was found. Nothing here is judged."""

    name: str
    """What the user named, or "the running kernel"."""

    origin: str
    """Where the parts come from, in words."""

    release: str = ""
    """As uname -r gives it; "" where nothing says."""

    version: str = ""
    """Upstream's, such as 6.1.170; "" where nothing says."""

    package: str = ""
    """Name and version of its packages; "" where it comes from none."""

    commit: str = ""
    """What a git repository's revision is called; "" where it comes from none."""

    btf: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """BTF by the names of PARTS. A module's is split BTF over that of vmlinux, which may be absent
    here where only a module was named."""

    code: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """ELF files, decompressed, by the names of PARTS. A bzImage's vmlinux has no symbols."""

    builtin: frozenset[str] = frozenset()
    """The modules of PARTS that are built into vmlinux."""

    source: Callable[[str], str | None] | None = field(default=None, repr=False)
    """Returns the text of a source file by its path in the tree, such as arch/x86/kvm/vmx/vmx.c, or
    None where the tree has no such file. None for a kernel without source."""

    lacks: tuple[str, ...] = ()
    """What could not be examined, and what to do, a line each."""
