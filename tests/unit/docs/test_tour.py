"""What docs/tour.md names exists where its links point."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"
LINK = re.compile(r"\[`?([^`\]]+)`?\]\(([^)]+)\)")
LINKS = [(name, target) for name, target in LINK.findall((DOCS / "tour.md").read_text())]


def defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Give each name that statements define, with the statement."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))


def is_defined(dotted: str, body: list[ast.stmt]) -> bool:
    """Tell whether statements define a name, or the attribute of a class that they define."""
    first, _, rest = dotted.partition(".")
    node = dict(defined(body)).get(first)
    return node is not None and (not rest or is_defined(rest, getattr(node, "body", [])))


@pytest.mark.parametrize(("name", "target"), LINKS, ids=[name for name, _ in LINKS])
def test_a_name_is_defined_in_the_file_that_it_links(name: str, target: str) -> None:
    path = (DOCS / target).resolve()
    assert path.exists()
    if path.suffix == ".py" and not name.endswith(".py"):
        assert is_defined(name, ast.parse(path.read_text()).body)
    else:
        assert str(path).endswith(name)


def test_names_that_are_not_defined_are_told_from_those_that_are() -> None:
    body = ast.parse("class A:\n    def b(self): ...\nC: int = 1\n").body
    assert [is_defined(name, body) for name in ("A", "A.b", "C")] == [True] * 3
    assert not any(is_defined(name, body) for name in ("b", "A.c", "C.b", "D"))
