"""The parts of a kernel
=====================

What of one kernel can be examined without booting it: its types (BTF), its machine code, its
source code; and of which kernel these are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from kvmtest.kernels.btf import Btf

__all__ = ["MODULES", "PARTS", "VMLINUX", "KernelParts"]

VMLINUX = "vmlinux"
MODULES = ("kvm", "kvm_intel", "kvm_amd")
#: The image and the modules that hold KVM, as lsmod names modules.
PARTS = (VMLINUX, *MODULES)


@dataclass(frozen=True)
class KernelParts:
    """One kernel's parts, each where it was found. Nothing here is judged."""

    name: str
    """What the user named, or "the running kernel"."""

    origin: str
    """Where the parts come from, in words."""

    release: str = ""
    """As uname -r gives it, or the version in a source tree's Makefile; "" where nothing says."""

    version: tuple[int, int, int] | None = None
    """Upstream's, such as (6, 1, 170); None where nothing says."""

    package: str = ""
    """Name and version of its packages; "" where it comes from none."""

    commit: str = ""
    """The first digits of the git commit that it is of; "" without git."""

    btf: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """BTF by the names of PARTS. A module's is split BTF over its base, see ``types``."""

    btf_bases: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The base that a module brings along (section .BTF.base) where it was built outside of its
    kernel's tree; that of other modules is vmlinux."""

    code: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """ELF files, decompressed, by the names of PARTS. A bzImage's vmlinux has no symbols."""

    builtin: frozenset[str] = frozenset()
    """The modules of PARTS that are built into vmlinux."""

    source: Callable[[str], str | None] | None = field(default=None, repr=False)
    """Returns the text of a source file by its path in the tree, such as arch/x86/kvm/vmx/vmx.c, or
    None where the tree has no such file. None for a kernel without source."""

    lacks: tuple[str, ...] = ()
    """What could not be examined, and why or what to do, a line each."""

    def with_part(
        self, name: str, code: bytes, types: bytes = b"", base: bytes = b""
    ) -> "KernelParts":
        """Return the same parts and one more: its ELF file, its BTF and that one's base, if any."""
        return replace(
            self,
            code={**self.code, name: code},
            btf={**self.btf, name: types} if types else self.btf,
            btf_bases={**self.btf_bases, name: base} if base else self.btf_bases,
        )

    def lacking(self, line: str) -> "KernelParts":
        """Return the same parts with one more line of ``lacks``."""
        return replace(self, lacks=(*self.lacks, line))

    def types(self, name: str) -> Btf | None:
        """Return the types that a part was built with, its own before those of its base.

        None where it has none, or their base is absent. Raises BtfError on corrupt data.
        """
        if name not in self.btf:
            return None
        if name == VMLINUX:
            return self._vmlinux_types
        base = Btf(self.btf_bases[name]) if name in self.btf_bases else self._vmlinux_types
        return Btf(self.btf[name], base, own_first=True) if base else None

    @cached_property
    def _vmlinux_types(self) -> Btf | None:
        return Btf(self.btf[VMLINUX]) if VMLINUX in self.btf else None
