"""The tool that collects what kernels print reads C as far as it needs to."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[3] / "tools/kernel_messages.py"


@pytest.fixture
def collect() -> Callable[[Path], Iterator[tuple[str, str]]]:
    tool: dict[str, Any] = runpy.run_path(str(TOOL))
    found: Callable[[Path], Iterator[tuple[str, str]]] = tool["collect"]
    return found


def write(tree: Path, name: str, text: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_formats_come_with_the_prefix_and_words_that_their_place_gives(
    tmp_path: Path, collect: Callable[[Path], Iterator[tuple[str, str]]]
) -> None:
    write(
        tmp_path,
        "kernel/rcu/tree.c",
        '#define pr_fmt(fmt) "rcu: " fmt\n/* pr_err("in a comment"); */\n',
    )
    write(tmp_path, "kernel/rcu/tree_stall.h", 'pr_err("INFO: %s "\n\t"stall\\n", name);\n')
    write(
        tmp_path,
        "arch/x86/kvm/vmx/vmx.c",
        '#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt\n'
        'vmx_insn_failed("vmread failed: field=%lx\\n", field);\n'
        'vcpu_unimpl(vcpu, "vmx: odd 0x%x\\n", x);\n',
    )
    write(tmp_path, "mm/slub.c", 'slab_err(s, slab, "Freepointer corrupt");\nf(NULL);')
    write(tmp_path, "kernel/panic.c", 'printk(KERN_INFO "talk\\n"); pr_info("talk\\n");')
    write(tmp_path, "drivers/any.c", 'pr_warn(FW_BUG "no\\n"); pr_err("BUG: here\\n");')
    write(tmp_path, "drivers/scale.c", 'pr_err("BUG: of a test\\n");')
    assert set(collect(tmp_path)) == {
        ("kernel/rcu/tree_stall.h", "rcu: INFO: %s stall"),
        ("arch/x86/kvm/vmx/vmx.c", "kvm_intel: vmread failed: field=%lx"),
        ("arch/x86/kvm/vmx/vmx.c", "kvm [%i]: vcpu%i, guest rIP: 0x%lx vmx: odd 0x%x"),
        ("mm/slub.c", "BUG %s (%s): Freepointer corrupt"),
        ("drivers/any.c", "BUG: here"),
    }
