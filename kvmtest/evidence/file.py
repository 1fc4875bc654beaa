"""Evidence files
==============

Evidence is written whole or not at all, and checked against its schema both ways.
"""

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kvmtest import named_file
from kvmtest.errors import EnvironmentUnfit

from .model import SCHEMA, Evidence

__all__ = [
    "EVIDENCE",
    "EvidenceUnreadable",
    "OtherSchema",
    "compile_schema",
    "load",
    "load_verdicts",
    "loads",
    "save",
    "write_to",
    "write_whole",
]

#: The file of a run's folder that has its evidence.
EVIDENCE = "evidence.json"

#: The most bytes read from an evidence.json: a run's has a few MiB at most.
MOST = 32 * named_file.MIB


# The digits of 256 bits: MSRs and counters have 64.
_MOST_DIGITS = 78


# Evidence is a tree, and looking for circles in thousands of readings takes time.
_as_json = json.JSONEncoder(check_circular=False).encode


class EvidenceUnreadable(EnvironmentUnfit):
    """This version can't read the file as evidence."""


class OtherSchema(EvidenceUnreadable):
    """The file's format has a name, and this version does not read it."""


def save(evidence: Evidence, path: Path, *, unchecked: bool = False) -> None:
    """Write evidence.json; raises EnvironmentUnfit if the file can't be written.

    ``unchecked`` leaves the schema check to the reader (:func:`load`).
    """
    data = evidence.to_dict()
    if not unchecked:
        _validate(data, path)
    write_whole(path, _text(data))


def _text(data: Mapping[str, Any]) -> str:
    """Return evidence as JSON with a line for each part and each result.

    json's own indentation is slow: it runs in Python, not in C.
    """
    parts = {name: _as_json(part) for name, part in data.items() if name != "results"}
    results = ",\n  ".join(map(_as_json, data["results"]))
    parts["results"] = f"[\n  {results}\n ]" if results else "[]"
    lines = ",\n".join(f' "{name}": {parts[name]}' for name in data)
    return f"{{\n{lines}\n}}\n"


def load(path: Path) -> Evidence:
    """Read an evidence.json, or the one in a run's folder.

    Raises :class:`EvidenceUnreadable`, which says what is wrong and what to do.
    """
    return Evidence.from_dict(_checked(*_read(path)))


def compile_schema() -> None:
    """Compile the schema, which is done once a process, for processes that will be forked."""
    _validator()


def load_verdicts(path: Path) -> Evidence:
    """Read evidence as :func:`load` does, and leave out the readings behind its verdicts.

    All of it is checked. It is for readers of thousands of runs: readings are most of a run.
    """
    data = _checked(*_read(path))
    results = [{**each, "readings": [], "absences": []} for each in data["results"]]
    return Evidence.from_dict({**data, "results": results})


def loads(text: str, path: Path) -> Evidence:
    """Read the text of an evidence.json; errors call it ``path``. Raises EvidenceUnreadable."""
    return Evidence.from_dict(_checked(text, path))


def _read(path: Path) -> tuple[str, Path]:
    """Return the text of an evidence.json, and the file that it is of."""
    try:
        if path.is_dir():
            path = path / EVIDENCE
        return named_file.read(path, MOST).decode(), path
    except OSError as error:
        raise EvidenceUnreadable(f"{path}: {error.strerror}; name an evidence.json") from None
    except UnicodeDecodeError:
        raise EvidenceUnreadable(f"{path}: this is not text; name an evidence.json") from None


def _checked(text: str, path: Path) -> dict[str, Any]:
    """Return the JSON object of evidence that fits the schema."""
    try:
        data = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:
        problem = f"not JSON, or cut short ({error})"
        raise EvidenceUnreadable(f"{path}: {problem}; copy it again, or run again") from None
    except RecursionError:
        raise EvidenceUnreadable(f"{path}: nested too deeply; name an evidence.json") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        what = f"its schema is {schema}" if schema else "it has no schema"
        advice = f"this kvmtest reads {SCHEMA}: use the version that wrote it"
        kind = OtherSchema if schema else EvidenceUnreadable
        raise kind(f"{path}: {what}; {advice}")
    _validate(data, path)
    checked: dict[str, Any] = data
    return checked


def _integer(text: str) -> int:
    """Return a whole number; raises ValueError for one too large to compute with."""
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    """Return a number; raises ValueError for NaN, infinity, or one too large for a float."""
    number = float(text)
    if math.isfinite(number):
        return number
    raise ValueError(f"{text[:20]} is not a JSON number")


def _validate(data: Any, path: Path) -> None:
    import fastjsonschema

    try:
        _validator()(data)
    except fastjsonschema.JsonSchemaValueException as error:
        name = error.name or "data"
        where = "$" + name.removeprefix("data")
        message = error.message.removeprefix(f"{name} ")
        message = message if len(message) < 200 else message[:200] + "..."
        raise EvidenceUnreadable(f"{path}: {where}: {message}; it does not fit {SCHEMA}") from None


@cache
def _validator() -> Callable[[Any], Any]:
    # Only the schema check needs this library: others don't pay for the import.
    import fastjsonschema

    schema = json.loads(Path(__file__).with_name("schema-1.json").read_text())
    # Compiled as draft 7, the newest that fastjsonschema knows; the schema uses nothing newer.
    validator: Callable[[Any], Any] = fastjsonschema.compile(
        {**_inlined(schema, schema["$defs"]), "$schema": "http://json-schema.org/draft-07/schema"}
    )
    return validator


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with its definitions in place of the references to them.

    fastjsonschema words the path of each value that it follows a reference for, whether or not it
    has anything against the value: the readings of a run take three times as long.
    """
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        return _inlined(definitions[reference.removeprefix("#/$defs/")], definitions)
    return {name: _inlined(each, definitions) for name, each in schema.items() if name != "$defs"}


def write_to(path: Path, text: str | Iterable[str]) -> None:
    """Replace a file that the user names, or write to the pipe or terminal of that name.

    ``text`` may come in parts. Raises EnvironmentUnfit if the file can't be written.
    """
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            _replace(Path(os.path.realpath(path)), text)  # a link stays one
            return
        if stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "this is a disk")
        # A FIFO that nobody reads would hold up a plain open.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(fd, True)
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(_in_parts(text))
    except OSError as error:
        raise _unwritten(path, error, "name another file") from None


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Replace a file atomically: readers see the old or the new one. Raises EnvironmentUnfit.

    ``text`` may come in parts.
    """
    try:
        _replace(path, text)
    except OSError as error:
        raise _unwritten(path, error, "free some space or choose another -o DIR") from None


def _unwritten(path: Path, error: OSError, advice: str) -> EnvironmentUnfit:
    return EnvironmentUnfit(f"can't write {path}: {error.strerror}; {advice}")


def _in_parts(text: str | Iterable[str]) -> Iterable[str]:
    return [text] if isinstance(text, str) else text


def _replace(path: Path, text: str | Iterable[str]) -> None:
    draft = path.parent / f".{path.name}.{os.getpid()}"
    try:
        with draft.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(_in_parts(text))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
