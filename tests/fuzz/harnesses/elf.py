"""kernels/elf.py: sections of an ELF file."""

from support.kernel_files import elf, module, vmlinux

from fuzz.harness import Harness
from kvmtest.kernels.elf import ElfError, section

HARNESS = Harness(
    parse=lambda data: section(data, ".modinfo"),
    seeds=(module("kvm_intel", "kvm"), vmlinux(), elf({".modinfo": b"", ".symtab": bytes(48)})),
    refusals=(ElfError,),
)
