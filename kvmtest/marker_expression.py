"""Expressions over markers
========================

``-m`` of ``kvmtest run``: names of markers with ``and``, ``or``, ``not`` and brackets, as pytest's
``-m`` takes them.
"""

import ast
from collections.abc import Callable, Collection

from kvmtest.errors import UsageError
from kvmtest.properties import MARKERS

__all__ = ["marker_expression"]


_GRAMMAR = (ast.Name, ast.Load, ast.UnaryOp, ast.Not, ast.BoolOp, ast.And, ast.Or)


def marker_expression(text: str) -> Callable[[Collection[str]], bool]:
    """Return a function that matches markers; raises UsageError for an invalid expression."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        unknown = sorted({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - set(MARKERS))
        if unknown:
            raise UsageError(f"-m {text}: no marker {unknown[0]}; there are {', '.join(MARKERS)}")
        if not all(isinstance(node, _GRAMMAR) for node in ast.walk(tree)):
            raise ValueError
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(
            f"-m {text}: it takes markers ({', '.join(MARKERS)}) with and, or, not and brackets"
        ) from None
    return lambda markers: _matches(tree, markers)


def _matches(node: ast.expr, markers: Collection[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in markers
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _matches(operand, markers)
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_matches(value, markers) for value in values)
        case ast.BoolOp(values=values):
            return any(_matches(value, markers) for value in values)
    raise TypeError(node)
