"""Tasks
=====

What /proc says of a process or a thread (proc(5)), by its folder, e.g. /proc/1/task/1.
"""

from kvmtest.host.tree import Tree

__all__ = ["stat", "status"]


def stat(tree: Tree, folder: str) -> list[str]:
    """Return the fields of ``stat`` from the state, field 3, on; none if the task has ended."""
    # Field 2, the command's name in brackets, may itself hold brackets and spaces.
    return (tree.read(f"{folder}/stat") or "").rpartition(")")[2].split()


def status(tree: Tree, folder: str) -> dict[str, str]:
    """Return the fields of ``status`` by their names; none if the task has ended."""
    lines = (tree.read(f"{folder}/status") or "").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
