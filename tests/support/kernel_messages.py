"""Lines as the kernel's format strings make them.

``kernel_messages.tsv`` has the formats, collected by ``tools/kernel_messages.py``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LIST = Path(__file__).with_suffix(".tsv")

# printf's conversions, and the kernel's own behind %p (Documentation/core-api/printk-formats.rst).
_CONVERSION = re.compile(
    r"%(?:%|(?P<width>[-+ #0-9.*]*)(?:hh|h|ll|l|L|z|t|j)?"
    r"(?P<kind>[dioxXusc]|p(?:bl|[SsBb]+R?|Gp|Gg|Gv|d[0-9]?|D|V|e|OFn|ap|Td|ph|a|x|g)?))"
)
_TEXTS = {
    "d": "7", "i": "7", "u": "7", "o": "7", "x": "1f", "X": "1F", "c": "D", "s": "word",
    "p": "00000000dead4ead", "px": "ffff888003a40000", "pS": "vmx_vcpu_run+0x1b3/0x2f0 [kvm_intel]",
    "ps": "vmx_vcpu_run", "pBb": "vmx_vcpu_run+0x1b3/0x2f0", "pSb": "vmx_vcpu_run+0x1b3/0x2f0",
    "pB": "vmx_vcpu_run+0x1b3/0x2f0", "pSR": "vmx_vcpu_run+0x1b3/0x2f0", "pb": "3", "pbl": "0-3",
    "pGp": "0xfffffc0000200(workingset|node=0)", "pGg": "GFP_KERNEL", "pd": "name", "pD": "name",
    "pV": "words", "pe": "-ENOMEM", "pg": "sda1",
}  # fmt: skip
# What %s stands for in some files, where the pattern asks for it, and in some formats.
_WORDS = {
    "kernel/rcu/": "rcu_preempt",
    "kernel/panic.c": "arch/x86/kvm/x86.c",
    "arch/x86/kvm/mmu/mmu.c": "__pte_list_remove",
}
_WHOLE = {
    "blocked%s for": "blocked in I/O wait for",
    "%sHardware error from": "{1}[Hardware Error]: Hardware error from",
    "ODEBUG: %s ": "ODEBUG: free ",
    "BUG %s (%s):": "BUG kmalloc-64 (Tainted: G    B   W         ):",
    "%s%08lx": "Bad swap file entry %08lx",
    "traps: %s at %pS": "traps: Internal error: UBSAN: array index out of bounds at %pS",
}


class Message(NamedTuple):
    """One format: the kernels that have it, its file, the kind of trouble or "-"."""

    kernels: str
    file: str
    kind: str
    format: str

    @property
    def line(self) -> str:
        """A line (or several) that it makes."""
        words = next((w for start, w in _WORDS.items() if self.file.startswith(start)), "word")
        form = self.format
        for short, whole in _WHOLE.items():
            form = form.replace(short, whole)

        def text(conversion: re.Match[str]) -> str:
            kind, flags = conversion["kind"], conversion["width"] or ""
            if kind is None:
                return "%"
            value = words if kind == "s" else _TEXTS.get(kind, "7")
            if "#" in flags and kind in "xX":
                return f"0x{value}"
            digits = re.search(r"0(\d+)", flags)
            return value.rjust(int(digits[1]), "0") if digits and kind in "dxu" else value

        return _CONVERSION.sub(text, form)


def messages() -> Iterator[Message]:
    """Yield all formats of the list."""
    for row in _LIST.read_text().splitlines():
        kernels, file, kind, text = row.split("\t")
        yield Message(kernels, file, kind, json.loads(text))
