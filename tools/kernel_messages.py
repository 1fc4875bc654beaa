#!/usr/bin/env python3
"""Collect what kernels print, for the tests of the table of troubles.

    tools/kernel_messages.py 6.12=DIR 7.3=DIR … > tests/support/kernel_messages.tsv

Each DIR is an unpacked kernel source tree (``linux-source-*`` of Debian, say). Every format string
of the files in FILES is collected, and from the whole of each tree those that begin like a report.
A row has the kernels that have the format, the source file, the kind of trouble that it reports,
and the format string, with the prefix that its file defines, as a JSON string. The kind is kept
from the present list; ``-`` is no trouble and ``?`` a format that nobody has judged yet: the tests
fail as long as there is one.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LIST = Path(__file__).parents[1] / "tests/support/kernel_messages.tsv"

#: The files of which every format is collected.
FILES = (
    "arch/x86/entry/entry_fred.c", "arch/x86/events/amd/core.c", "arch/x86/events/core.c",
    "arch/x86/events/intel/core.c", "arch/x86/kernel/apic/apic.c", "arch/x86/kernel/cet.c",
    "arch/x86/kernel/cpu/bugs.c", "arch/x86/kernel/cpu/bus_lock.c",
    "arch/x86/kernel/cpu/intel.c", "arch/x86/kernel/cpu/mce/", "arch/x86/kernel/dumpstack.c",
    "arch/x86/kernel/hpet.c", "arch/x86/kernel/irq.c", "arch/x86/kernel/nmi.c",
    "arch/x86/kernel/process.c", "arch/x86/kernel/smpboot.c", "arch/x86/kernel/traps.c",
    "arch/x86/kernel/tsc.c",
    "arch/x86/kernel/tsc_sync.c", "arch/x86/kernel/unwind_frame.c",
    "arch/x86/kernel/unwind_orc.c", "arch/x86/kvm/", "arch/x86/mm/extable.c",
    "arch/x86/mm/fault.c", "arch/x86/mm/pti.c", "arch/x86/platform/efi/quirks.c",
    "arch/x86/virt/", "drivers/acpi/apei/bert.c", "drivers/acpi/apei/ghes.c",
    "drivers/char/hpet.c", "drivers/edac/edac_mc.c", "drivers/edac/mce_amd.c",
    "drivers/firmware/efi/runtime-wrappers.c", "drivers/thermal/intel/therm_throt.c",
    "fs/dcache.c", "fs/fs-writeback.c", "fs/namespace.c", "fs/super.c", "kernel/cfi.c",
    "kernel/cpu.c", "kernel/events/core.c", "kernel/exit.c", "kernel/fork.c",
    "kernel/hung_task.c", "kernel/irq/", "kernel/kcsan/report.c", "kernel/locking/",
    "kernel/panic.c", "kernel/rcu/", "kernel/sched/", "kernel/smp.c", "kernel/softirq.c",
    "kernel/stop_machine.c", "kernel/time/", "kernel/watchdog.c", "kernel/watchdog_hld.c",
    "kernel/watchdog_perf.c", "kernel/workqueue.c", "lib/bug.c", "lib/debugobjects.c",
    "lib/kobject.c", "lib/list_debug.c", "lib/nmi_backtrace.c", "lib/refcount.c",
    "lib/smp_processor_id.c", "lib/ubsan.c", "mm/debug.c", "mm/filemap.c", "mm/kasan/",
    "mm/kfence/", "mm/kmemleak.c", "mm/kmsan/", "mm/memory-failure.c", "mm/memory.c",
    "mm/oom_kill.c", "mm/page_alloc.c", "mm/page_poison.c", "mm/pgtable-generic.c", "mm/slab.c",
    "mm/slab_common.c", "mm/slub.c", "mm/swapfile.c", "mm/usercopy.c", "mm/vmalloc.c",
    "net/core/dev.c", "virt/kvm/",
)  # fmt: skip

#: Tests of the kernel's own, and files with much talk and no trouble.
_LEFT_OUT = re.compile(r"torture|scale\.c|test|sched/(ext|topology)|aic7|crypto/aes|net/core/dev")

#: Where whole trees are looked through for formats that begin like a report.
_TREE = ("arch/x86", "block", "drivers", "fs", "init", "ipc", "kernel", "lib", "mm", "net",
         "security", "virt")  # fmt: skip
_LIKE_A_REPORT = re.compile(
    r"[=*\n -]*(?:\S+: )?\W*(?:BUG|WARNING|INFO|Oops|PANIC)\b|.*\[Hardware Error\]"
)

#: Where also what is printed at the levels info, notice and debug is collected.
_TALK = ("arch/x86/kernel/nmi.c", "arch/x86/kernel/tsc", "arch/x86/kvm", "kernel/time/c", "virt/")

#: Files whose WARNs are trouble by themselves.
_WARNERS = ("arch/x86/events/intel/core.c", "lib/debugobjects.c", "mm/usercopy.c")

#: An included file has the including file's pr_fmt.
_INCLUDED_BY = {
    "kernel/rcu/tree_exp.h": "kernel/rcu/tree.c",
    "kernel/rcu/tree_plugin.h": "kernel/rcu/tree.c",
    "kernel/rcu/tree_stall.h": "kernel/rcu/tree.c",
    "kernel/rcu/tasks.h": "kernel/rcu/update.c",
}

#: Functions and macros that print, and what they make of their format; * stands for the format,
#: with pr_fmt where it begins with @.
_PRINTERS = {
    r"pr_(?:emerg|alert|crit|err|warn|warning|notice|info)(?:_once|_ratelimited)?": "@*",
    r"printk(?:_deferred)?(?:_once|_ratelimited)?": "*",
    r"(?:early_printk|orc_warn_sched)": "*",
    r"(?:orc_warn|orc_warn_current)": "WARNING: *",
    r"WARN(?:_ONCE)?": "*",
    r"panic": "Kernel panic - not syncing: *",
    r"CHECK_DATA_CORRUPTION": "*",
    r"REFCOUNT_WARN": "refcount_t: *.",
    r"(?:slab_err|object_err)": "BUG %s (%s): *",
    r"slab_fix": "FIX %s: *",
    r"vmx_insn_failed": "@*",
    r"kvm_(?:pr_unimpl|err|info)": "kvm [%i]: *",
    r"vcpu_(?:unimpl|err)": "kvm [%i]: vcpu%i, guest rIP: 0x%lx *",
    r"(?:ubsan_prologue)": "UBSAN: *",
}

_CALL = re.compile(rf"\b(?:{'|'.join(f'({name})' for name in _PRINTERS)})\s*\(")
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"', re.S)
_TOKEN = re.compile(r'"((?:\\.|[^"\\])*)"|([A-Za-z_]\w*)|(\S)', re.S)
_PR_FMT = re.compile(r"^#define\s+(?:pr_fmt|dev_fmt)\(\w+\)\s+(.*)$", re.M)
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "r": "\r", "0": "\0"}
_MACROS = {
    "FW_BUG": "[Firmware Bug]: ",
    "FW_WARN": "[Firmware Warn]: ",
    "HW_ERR": "[Hardware Error]: ",
    "CUT_HERE": "------------[ cut here ]------------\n",
    "GHES_PFX": "GHES: ",
    "KBUILD_MODNAME": None,
}


def formats(tree: Path, name: str) -> Iterator[str]:
    """Yield the formats that the file prints, with its own prefix."""
    text = source(tree, name)
    owner = source(tree, _INCLUDED_BY.get(name, name))
    found = _PR_FMT.search(owner)
    prefix = literal(found[1], 0, name)[0] if found else ""
    for call in _CALL.finditer(text):
        template = list(_PRINTERS.values())[(call.lastindex or 0) - 1]
        if call[0].startswith("WARN") and name not in _WARNERS:
            continue
        said = first_literal(text, call.end(), name)
        if said is None or is_talk(call[0], text[call.end() : call.end() + 30], said, name):
            continue
        if template.startswith("@"):
            said, template = prefix + said, template[1:]
        yield template.replace("*", said)


def is_talk(call: str, arguments: str, said: str, name: str) -> bool:
    """Tell whether the call prints at an informational level."""
    level = re.search(r"KERN_(?:INFO|NOTICE|DEBUG)", arguments) or re.search("info|notice", call)
    return bool(level) and not name.startswith(_TALK) and not _LIKE_A_REPORT.match(said)


def source(tree: Path, name: str) -> str:
    """Return the file's text without comments."""
    try:
        text = (tree / name).read_text(errors="replace")
    except OSError:
        return ""
    return _COMMENT.sub(lambda m: m[0] if m[0].startswith('"') else " ", text)


def first_literal(text: str, at: int, name: str) -> str | None:
    """Return the first string among a call's arguments, or None."""
    depth, position = 1, at
    while depth and (token := _TOKEN.search(text, position)):
        if token[1] is not None or token[2] in _MACROS:
            return literal(text, token.start(), name)[0]
        depth += {"(": 1, ")": -1}.get(token[3] or "", 0)
        position = token.end()
        if token[3] == ";":
            return None
    return None


def literal(text: str, at: int, name: str) -> tuple[str, int]:
    """Return the string that literals and known macros make from ``at`` on, and its end."""
    parts: list[str] = []
    while token := _TOKEN.match(text, at):
        if token[1] is not None:
            parts.append(unescaped(token[1]))
        elif token[2] == "fmt" or token[3] == "\\":
            pass
        elif token[2] == "KBUILD_MODNAME":
            parts.append(module_of(name))
        elif token[2] in _MACROS:
            parts.append(_MACROS[token[2]] or "")
        elif token[2] and token[2].startswith(("PRI", "KERN_")):
            pass
        elif token[2]:
            parts.append("%s")  # a macro that is a string
        else:
            break
        at = token.end()
        at += len(text[at:]) - len(text[at:].lstrip()) if text[at : at + 1].isspace() else 0
    return "".join(parts), at


def unescaped(text: str) -> str:
    """Return the text of a literal of C."""
    text = re.sub(r"\\\n", "", text)
    text = re.sub(r"\\x([0-9a-f]{2})|\\(\d{3})", lambda m: chr(int(m[1] or m[2], 16)), text)
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), text)


def module_of(name: str) -> str:
    """Return the name of the file's module, as KBUILD_MODNAME has it."""
    if name.startswith(("arch/x86/kvm/", "virt/kvm")):
        part = name.split("/")[3]
        return {"vmx": "kvm_intel", "svm": "kvm_amd"}.get(part, "kvm")
    return Path(name).stem.replace("-", "_")


def collect(tree: Path) -> Iterator[tuple[str, str]]:
    """Yield file and format of each message that counts in the tree."""
    for top in _TREE:
        for path in sorted([*(tree / top).rglob("*.c"), *(tree / top).rglob("*.h")]):
            name = str(path.relative_to(tree))
            if _LEFT_OUT.search(name):
                continue
            whole = any(name == f or (f.endswith("/") and name.startswith(f)) for f in FILES)
            for said in formats(tree, name):
                said = said.rstrip("\n")
                if said.strip(" =-*\n") and (whole or _LIKE_A_REPORT.match(said)):
                    yield name, said


def main(arguments: list[str]) -> None:
    """Write the list of the trees in ``arguments``."""
    judged = {}
    if LIST.exists():
        for line in LIST.read_text().splitlines():
            _, name, kind, said = line.split("\t")
            judged[name, said] = kind
    rows: dict[tuple[str, str], list[str]] = {}
    for argument in arguments:
        kernel, _, tree = argument.partition("=")
        for name, said in collect(Path(tree)):
            kernels = rows.setdefault((name, json.dumps(said)), [])
            if kernel not in kernels:
                kernels.append(kernel)
    for (name, said), kernels in sorted(rows.items()):
        row = (",".join(kernels), name, judged.get((name, said), "?"), said)
        sys.stdout.write("\t".join(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
