"""The text of a plan
==================

YAML by its nodes, so that each value has the line that it stands in; checked by plan-1.json.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from kvmtest.errors import UsageError, printable
from kvmtest.optional_libraries import library

__all__ = ["Lines", "PlanError", "read"]

_SCHEMA = Path(__file__).with_name("plan-1.json")
#: More than any plan has: a node that aliases repeat counts each time.
_MOST_NODES = 200_000
_DEEPEST = 12

_Place = tuple[str | int, ...]


class PlanError(UsageError):
    """A plan is wrong: ``PATH:LINE: what, what to do``; line 0 is the whole file."""

    def __init__(self, path: Path, line: int, what: str, advice: str) -> None:
        self.line = line
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {what}; {advice}")


class Lines:
    """The line of each value, by the keys and indexes that lead to it."""

    def __init__(self) -> None:
        self._lines: dict[_Place, int] = {}

    def put_first(self, at: _Place, line: int) -> None:
        """Note a value's line, unless one is noted."""
        self._lines.setdefault(at, line)

    def of(self, at: _Place) -> int:
        """Return the line of a value, or of the nearest one around it."""
        while at not in self._lines and at:
            at = at[:-1]
        return self._lines.get(at, 0)


def read(text: str, path: Path) -> tuple[dict[str, Any], Lines]:
    """Return the content of a plan that fits the schema, and its lines; raises PlanError.

    Numbers are whole; all else is text, so that the version 6.10 stays what it is.
    """
    yaml = library("yaml", "a plan", "fleet")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "this is not YAML"
        raise PlanError(path, mark.line + 1 if mark else 0, what, "correct it") from None
    except yaml.YAMLError as error:
        raise PlanError(path, 0, f"this is not YAML: {error}", "correct it") from None
    except RecursionError:
        raise PlanError(path, 0, "it is nested too deeply", "correct it") from None
    if node is None:
        raise PlanError(path, 0, "it is empty", "give it hosts and runs")
    reader = _Nodes(path)
    data = reader.value(node, ())
    _validate(data, path, reader.lines)
    return data, reader.lines


class _Nodes:
    """Makes plain values of YAML's nodes."""

    def __init__(self, path: Path) -> None:
        self.lines = Lines()
        self._path = path
        self._count = 0

    def value(self, node: Any, at: _Place) -> Any:
        line = node.start_mark.line + 1
        # A key's own line is noted before.
        self.lines.put_first(at, line)
        self._count += 1
        if self._count > _MOST_NODES or len(at) > _DEEPEST:
            raise PlanError(self._path, line, "it is nested too deeply", "correct it")
        if node.id == "mapping":
            return self._mapping(node, at)
        if node.id == "sequence":
            return [self.value(each, (*at, n)) for n, each in enumerate(node.value)]
        kind = node.tag.rpartition(":")[2]
        if kind == "int" and node.value.isascii() and node.value.isdigit() and len(node.value) < 10:
            return int(node.value)
        # As YAML 1.2 has it: yes, no, on and off are text.
        if kind == "bool" and node.value.lower() in ("true", "false"):
            return node.value.lower() == "true"
        return None if kind == "null" else node.value

    def _mapping(self, node: Any, at: _Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                raise PlanError(self._path, line, "a key is no text", "correct it")
            if key.value in found:
                raise PlanError(self._path, line, f"{key.value} is there twice", "remove one")
            self.lines.put_first((*at, key.value), line)
            found[key.value] = self.value(value, (*at, key.value))
        return found


def _validate(data: Any, path: Path, lines: Lines) -> None:
    import fastjsonschema

    try:
        _validator()(data)
    except fastjsonschema.JsonSchemaValueException as error:
        at = tuple(int(step) if step.isdigit() else step for step in error.path[1:])
        if error.rule == "additionalProperties" and isinstance(error.value, dict):
            key, what, advice = _unknown(error.value, error.definition, at)
            at = (*at, key)
        else:
            name = error.name or "data"
            where = ".".join(map(str, at)) or "the plan"
            what = f"{where} {error.message.removeprefix(f'{name} ')}"
            advice = f"see {_SCHEMA.name}"
        raise PlanError(path, lines.of(at), what[:200], advice) from None


def _unknown(value: dict[str, Any], definition: dict[str, Any], at: _Place) -> tuple[str, str, str]:
    """Return the key that the schema does not know, what is wrong with it, and what to do."""
    known = definition.get("properties", {})
    if known:
        key = next(key for key in value if key not in known)
        where = f" in {'.'.join(map(str, at))}" if at else ""
        return key, f"{key} is unknown{where}", f"it takes {', '.join(known)}"
    (pattern,) = definition["patternProperties"]
    key = next(key for key in value if not re.fullmatch(pattern.rstrip("$"), key))
    what = f"{printable(key)} is no name"
    return key, what, "use up to 64 letters, digits and . _ + -, a letter first"


@cache
def _validator() -> Callable[[Any], Any]:
    import fastjsonschema

    schema = json.loads(_SCHEMA.read_text())
    # Compiled as draft 7, the newest that fastjsonschema knows; the schema uses nothing newer.
    validator: Callable[[Any], Any] = fastjsonschema.compile(
        {**schema, "$schema": "http://json-schema.org/draft-07/schema"}
    )
    return validator
