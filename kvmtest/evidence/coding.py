"""Dataclasses as JSON
===================

Encodes and decodes a dataclass by its fields and their types: dataclasses, lists of them, StrEnums,
and any JSON value.

A field whose default is None is left out while it is None: the value was not recorded. All other
fields are always written. A field ``extra`` keeps keys that have no field, and a null for a field
whose default is None: evidence of older and newer versions loses nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from operator import attrgetter
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["decode", "encode"]

T = TypeVar("T")
_EXTRA = "extra"


class _Field(NamedTuple):
    """A field: whether None is left out, and which dataclass or StrEnum is inside, if any."""

    name: str
    is_optional: bool
    kind: Any
    is_record: bool
    is_list: bool

    def decode(self, value: Any) -> Any:
        if self.kind is None or value is None:
            return value
        return [self._one(each) for each in value] if self.is_list else self._one(value)

    def _one(self, value: Any) -> Any:
        return decode(self.kind, value) if self.is_record else self.kind(value)

    def encode(self, value: Any) -> Any:
        if value is None or not self.is_record:
            return value
        return [encode(each) for each in value] if self.is_list else encode(value)


def encode(record: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object; other values inside are not copied."""
    kind: Any = type(record)
    return _encoder(kind)(record)


def decode(kind: type[T], data: Mapping[str, Any]) -> T:
    """Return the dataclass that :func:`encode` turned into ``data``.

    Raises KeyError, TypeError or ValueError if ``data`` does not fit ``kind``.
    """
    wanted: Any = kind
    known = {
        field.name: field.decode(data[field.name])
        for field in _fields(wanted)
        if field.name in data and not (field.is_optional and data[field.name] is None)
    }
    extra = {name: value for name, value in data.items() if name not in known}
    return kind(**known, **({_EXTRA: extra} if _has_extra(wanted) else extra))


@cache
def _fields(kind: Any) -> tuple[_Field, ...]:
    hints = get_type_hints(kind)
    return tuple(
        _Field(f.name, f.default is None, *_inside(hints[f.name]))
        for f in fields(kind)
        if f.name != _EXTRA
    )


@cache
def _has_extra(kind: Any) -> bool:
    return any(field.name == _EXTRA for field in fields(kind))


def _inside(hint: Any) -> tuple[Any, bool, bool]:
    """Return the dataclass or StrEnum in X, X | None, list[X] or list[X] | None.

    And whether it is a dataclass, and whether there is a list of it.
    """
    for part in get_args(hint) if get_origin(hint) is UnionType else (hint,):
        is_list = get_origin(part) is list
        kind = get_args(part)[0] if is_list else part
        if is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, StrEnum)):
            return kind, is_dataclass(kind), is_list
    return None, False, False


@cache
def _encoder(kind: Any) -> Callable[[Any], dict[str, Any]]:
    """Return a dataclass's encoder; a flat class, with thousands of objects, needs no loop."""
    known, has_extra = _fields(kind), _has_extra(kind)

    def by_field(record: Any) -> dict[str, Any]:
        values = ((field, getattr(record, field.name)) for field in known)
        written = {f.name: f.encode(v) for f, v in values if not (f.is_optional and v is None)}
        return {**written, **record.extra} if has_extra else written

    names = [field.name for field in known]
    values_of = attrgetter(*names)

    def flat(record: Any) -> dict[str, Any]:
        return dict(zip(names, values_of(record), strict=True))

    is_flat = not any(f.is_optional or f.is_record for f in known)
    return flat if is_flat and not has_extra and len(names) > 1 else by_field
