"""Imports of kvmtest point one way: from commands down to the facts about one kernel or host."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvmtest

ROOT = Path(kvmtest.__file__).parent

#: The parts of kvmtest, each with those of its level. A part imports from the levels below alone.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"run"},
    {"replay", "plugin"},
    {"run_folder"},
    {"report"},
    {"session", "diagnosis", "watch", "reproducers"},
    {"fleet"},
    {"known_defects", "record", "pollution"},
    {"checks", "lab", "run_options"},
    {"guests", "smi", "interleave"},
    {"pmu"},
    {"kvm", "host", "target", "marker_expression"},
    {"kernels", "evidence", "findings", "properties"},
    {
        "judge",
        "cache",
        "child",
        "named_file",
        "optional_libraries",
        "workers",
        "parallel",
        "interruption",
    },
    {"disk", "distribution", "missing", "errors", "_native", "suite", "kvmtest"},
)

#: The rooms of the host, in the same order.
ROOMS = ({"as_json"}, {"machine"}, {"changes"}, {"observe"}, {"facts"}, {"tree"})

#: What the parts that must stay pure, or free of machines, may import of kvmtest at most.
NOTHING_BUT = {
    "judge": {"errors", "missing"},
    "evidence": {"judge", "errors", "missing", "named_file"},
    "kernels": {"cache", "errors", "named_file", "optional_libraries"},
}

# It runs inside a machine of the lab, where it starts kvmtest.
AGENT = ROOT / "lab" / "inside" / "agent.py"
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if path != AGENT]


def part(module: str) -> str:
    """Return kvmtest's part of a module: ``host`` of ``kvmtest.host.facts.cpu``."""
    return f"{module}.".split(".")[1] or "kvmtest"


def imported(path: Path) -> Iterator[str]:
    """Give the modules of kvmtest that a file imports, wherever in it the import stands."""
    package = ["kvmtest", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if part_of_kvmtest(alias.name))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            if module == "kvmtest":
                # A name that is no module's is of the package itself.
                yield from (f"kvmtest.{a.name}" for a in node.names if is_module(a.name))
            elif part_of_kvmtest(module):
                yield module


def part_of_kvmtest(module: str) -> bool:
    return module.partition(".")[0] == "kvmtest"


def is_module(name: str) -> bool:
    return name in {each for level in LEVELS for each in level}


def level(name: str) -> int:
    found = [number for number, names in enumerate(LEVELS) if name in names]
    assert len(found) == 1, f"kvmtest/{name}: place it in LEVELS, above all that it imports"
    return found[0]


def upward(path: Path) -> set[str]:
    """Return the parts that a file imports and may not."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    own = "kvmtest" if first == "__init__" else first
    used = {part(module) for module in imported(path)} - {own}
    return {name for name in used if level(name) <= level(own)} | (
        used - NOTHING_BUT.get(own, used)
    )


def test_a_module_imports_from_the_levels_below_alone() -> None:
    found = {str(path.relative_to(ROOT)): upward(path) for path in SOURCES}
    assert {path: parts for path, parts in found.items() if parts} == {}


def test_a_room_of_the_host_imports_from_those_below_alone() -> None:
    def rank(room: str) -> int:
        (found,) = (number for number, rooms in enumerate(ROOMS) if room in rooms)
        return found

    for path in (ROOT / "host").rglob("*.py"):
        own = path.relative_to(ROOT / "host").parts[0].removesuffix(".py")
        used = {module.split(".")[2] for module in imported(path) if part(module) == "host"}
        assert all(rank(room) > rank(own) for room in used - {own}), path


def test_the_reader_of_imports_sees_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lab" / "image"
    package.mkdir(parents=True)
    (package / "a.py").write_text(
        "import os, kvmtest.kvm.vm\nfrom . import cpio\nfrom ..machine import M\n"
        "from kvmtest import host, __version__\ndef f():\n    from kvmtest.smi.source import x\n"
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert list(imported(package / "a.py")) == [
        "kvmtest.kvm.vm",
        "kvmtest.lab.image",
        "kvmtest.lab.machine",
        "kvmtest.host",
        "kvmtest.smi.source",
    ]
