"""The records of a run agree with the schema file, and lose nothing that other versions wrote."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from support.evidence_samples import BOCHS, evidence_of

import kvmtest.evidence
from kvmtest.evidence import Evidence, KernelRecord, MachineRecord, load, save
from kvmtest.evidence.coding import decode, encode
from kvmtest.evidence.records import Fact

RECORDED = sorted((Path(__file__).parents[2] / "recorded").glob("*.json"))
SCHEMA = json.loads((Path(kvmtest.evidence.__file__).parent / "schema-1.json").read_text())
JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_evidence_is_saved_as_it_was_loaded(path: Path, tmp_path: Path) -> None:
    save(load(path), tmp_path / "evidence.json")
    assert json.loads((tmp_path / "evidence.json").read_text()) == json.loads(path.read_text())


def test_what_other_versions_write_is_kept_and_null_is_not_lost() -> None:
    data = {**encode(evidence_of(lab=BOCHS).machine), "socket": 3, "hostname": None}
    record = decode(MachineRecord, data)
    assert record.hostname is None
    assert record.extra == {"socket": 3, "hostname": None}
    assert encode(record) == data


def test_what_was_not_recorded_is_left_out() -> None:
    assert encode(KernelRecord("6.1")) == {"release": "6.1"}
    assert decode(KernelRecord, {}) == KernelRecord()


# The schema file


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return SCHEMA["$defs"][reference.rpartition("/")[2]] if reference else schema


def disagreements(kind: Any, schema: Mapping[str, Any], path: str) -> list[str]:
    """Return where a dataclass and an object of the schema differ."""
    names = {field.name for field in fields(kind)}
    found = [f"{path}: one has more" for _ in range(("extra" in names) == (is_closed(schema)))]
    known = schema["properties"]
    found += [f"{path}.{name}: only one has it" for name in (names - {"extra"}) ^ set(known)]
    for field in fields(kind):
        if field.name in known:
            place, hint = f"{path}.{field.name}", get_type_hints(kind)[field.name]
            is_optional = field.default is not MISSING or field.default_factory is not MISSING
            if not is_optional and field.name not in schema.get("required", ()):
                found.append(f"{place}: the schema does not require it")
            if field.default is None and field.name in schema.get("required", ()):
                found.append(f"{place}: the schema requires what may be left out")
            found += mistyped(hint, resolved(known[field.name]), place)
    return found


def is_closed(schema: Mapping[str, Any]) -> bool:
    return schema.get("additionalProperties") is False


def mistyped(hint: Any, schema: Mapping[str, Any], path: str) -> list[str]:
    """Return where a field's type admits less than the schema does."""
    if hint is Fact or schema == SCHEMA["$defs"]["scalar"]:
        return []
    hints = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    (one,) = (each for each in hints if each is not type(None))
    if isinstance(one, type) and issubclass(one, StrEnum):
        return [] if set(schema["enum"]) == set(one) else [f"{path}: other words"]
    if "enum" in schema or "const" in schema:
        return [] if one is str else [f"{path}: a word that is no text"]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    found = [f"{path}: null"] if "null" in types and type(None) not in hints else []
    (name,) = set(types) - {"null"}
    if is_dataclass(one):
        inside = disagreements(one, schema, path)
        return found + (inside if name == "object" else [f"{path}: {name}"])
    if get_origin(one) is list:
        item = mistyped(get_args(one)[0], resolved(schema["items"]), f"{path}[]")
        return found + (item if name == "array" else [f"{path}: {name}"])
    expected = "object" if get_origin(one) is Mapping else JSON_TYPES.get(one)
    return found if name == expected else [*found, f"{path}: {name}"]


def test_the_schema_and_the_dataclasses_agree() -> None:
    known = {k: v for k, v in SCHEMA["properties"].items() if k not in ("schema", "summary")}
    assert disagreements(Evidence, {**SCHEMA, "properties": known}, "$") == []


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        ("kvmtest", {"strict": {"type": "string"}}, "$.kvmtest.strict: string"),
        ("kvmtest", {"weather": {"type": "string"}}, "$.kvmtest.weather: only one has it"),
        ("kernel_log", {"records": {"type": ["integer", "null"]}}, "$.kernel_log.records: null"),
    ],
)
def test_a_schema_that_says_more_is_found_out(
    place: str, change: Mapping[str, object], said: str
) -> None:
    part = SCHEMA["properties"][place]
    other = {**part, "properties": {**part["properties"], **change}}
    kind = get_type_hints(Evidence)[place]
    assert disagreements(kind, other, f"$.{place}") == [said]


@pytest.mark.parametrize(
    ("release", "commit"),
    [
        ("6.13.0-rc2-00042-g3ab1c2d4e5f6", "3ab1c2d4e5f6"),
        ("6.12.0-g3ab1c2d4e5f6-dirty", "3ab1c2d4e5f6"),
        ("6.12.0-local-gfeedbee+", "feedbee"),
        ("6.12.117+deb12-amd64", None),
        ("6.8.0-31-generic", None),
        ("6.1.0-gamma", None),
        ("6.1.0-gdeadbeefish", None),
        ("6.1.0-gabc12", None),
        ("", None),
        (None, None),
    ],
)
def test_the_commit_is_what_a_release_names_after_g(
    release: str | None, commit: str | None
) -> None:
    assert KernelRecord(release=release).commit == commit
