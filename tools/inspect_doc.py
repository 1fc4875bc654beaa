"""What inspection says of the kernels that the lab decided, and of the mutants.

Writes docs/inspect.md from docs/inspect.json. ``--kernels`` fetches each kernel of
docs/kernels.json that has no row yet from Debian's archive, one after another, and looks at it;
``--mutants`` builds each mutant that has no row yet for the kernel named, and looks at its modules
and at its source.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from kvmtest.cache import Cache
from kvmtest.kernels.archive import Archive
from kvmtest.kernels.banner import upstream_version
from kvmtest.kernels.inspection import inspected
from kvmtest.kernels.parts import KernelParts
from kvmtest.kernels.resolve import resolve
from kvmtest.kernels.series import (
    FIX,
    QUIRK,
    RUN_FLAGS,
    SERIES,
    VMCS12_CHECK,
    Commit,
    Evidence,
    Finding,
    State,
    advice,
)
from kvmtest.kernels.series_source import SOURCES
from kvmtest.kernels.targets import opened
from kvmtest.lab.mutants import MUTANTS, REPAIRS, kit
from kvmtest.lab.mutants.builder import ModuleBuilder
from kvmtest.lab.mutants.table import Mutant

DOCS = Path(__file__).resolve().parent.parent / "docs"
TARGET, DATA, KERNELS = DOCS / "inspect.md", DOCS / "inspect.json", DOCS / "kernels.json"

Row = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """What the lab's verdict on a property says of a commit."""

    commit: Commit
    property: str
    present: str
    """The verdict on a kernel that has the commit."""
    absent: str
    """And on one that lacks it."""


RULES = (
    Rule(RUN_FLAGS, "vmx.entry.flag-economy", "PASS", "SKIP"),
    Rule(VMCS12_CHECK, "nvmx.vmcs12.validity", "PASS", "FAIL"),
    Rule(FIX, "vmx.entry.fresh", "PASS", "FAIL"),
    Rule(FIX, "vmx.entry.toggled", "PASS", "FAIL"),
    Rule(FIX, "nvmx.entry.vmfail-reload", "PASS", "FAIL"),
    Rule(QUIRK, "nvmx.vmcs12.quirk-disabled", "PASS", "SKIP"),
)


def load() -> Row:
    """Return the data of the page."""
    return dict(json.loads(DATA.read_text())) if DATA.exists() else {"kernels": [], "mutants": []}


def contradictions(data: Row, lab: Sequence[Row]) -> list[str]:
    """Return where inspection and the lab's verdicts (rows of kernels.json) do not agree."""
    found = []
    by_kernel = {_kernel(row): row for row in data["kernels"]}
    for verdicts in (row for row in lab if row["lab"] == "intel"):
        kernel = _kernel(verdicts)
        if kernel not in by_kernel:
            continue
        states = by_kernel[kernel]["states"]
        for rule in RULES:
            state, verdict = states[rule.commit.id], verdicts["verdicts"][rule.property]
            wanted = {State.PRESENT: rule.present, State.ABSENT: rule.absent}.get(state)
            if verdict != wanted:
                found.append(
                    f"{kernel[1]}: {rule.commit.id} is {state}, but {rule.property} is {verdict}"
                )
    return found


def not_inspected(data: Row, lab: Sequence[Row]) -> list[str]:
    """Return the kernels that the lab decided and that have no row yet, by version."""
    return [row["debian_version"] for row in sorted(_left(data, lab), key=_age)]


def kernel_row(parts: KernelParts, debian_version: str) -> Row:
    """Return the row of one kernel."""
    findings = inspected(parts)
    return {
        "release": parts.release,
        "debian_version": debian_version,
        "states": {each.commit.id: each.state for each in findings},
        "evidence": {each.commit.id: list(each.evidence) for each in findings},
        "unneeded": {each.commit.id: each.unneeded for each in findings if each.unneeded},
    }


def mutant_row(
    mutant: Mutant, built: KernelParts | None, source: KernelParts, stock: KernelParts
) -> Row:
    """Return what the modules and the source of a mutant show that the stock kernel's do not."""
    usual = {each.commit: each.state for each in inspected(stock)}
    return {
        "name": mutant.name,
        "kernel": stock.release,
        "code": _denied(inspected(built), usual) if built else None,
        "source": _denied(inspected(source), usual),
    }


def _denied(findings: Iterable[Finding], usual: Mapping[Commit, State]) -> dict[str, str]:
    return {
        each.commit.id: each.observation
        for each in findings
        if each.state is State.ABSENT and usual[each.commit] is not State.ABSENT
    }


def document(data: Row) -> str:
    """Return the page."""
    lines = [
        "# What inspection says of kernels",
        "",
        "Made by `python tools/inspect_doc.py` from inspect.json. The kernels are those of "
        "[kernels.md](kernels.md), each looked at as `kvmtest kernel inspect` does, without "
        "booting it. A test holds this page against what the lab decided on the same kernels: "
        "where inspection says that a commit is present or absent, the property that shows it has "
        "the verdict that follows.",
        "",
        "| commit | subject | held against |",
        "|---|---|---|",
        *(
            f"| {commit.id} | {commit.subject} (in {commit.in_version}) | "
            f"{', '.join(f'`{rule.property}`' for rule in RULES if rule.commit == commit)} |"
            for commit in SERIES
        ),
        "",
        "## Kernels",
        "",
        "T: the types show the commit; C: the machine code does. `no`: the kernel lacks the "
        "commit; `-`: it lacks the commit and needs none; `?`: unknown.",
        "",
        f"| kernels | {' | '.join(commit.id[:4] for commit in SERIES)} | advice |",
        f"|---|{'---|' * len(SERIES)}---|",
        *_kernel_lines(sorted(data["kernels"], key=_age)),
        "",
        *_not_yet(not_inspected(data, json.loads(KERNELS.read_text()))),
        "## Mutants",
        "",
        "What inspection says of each [mutant](mutants.md) that it does not say of the stock "
        "kernel, 6.12.117. An empty field: inspection sees no difference. The fault is then one "
        "that lines and bits don't show (an order, the sense of a branch, a place for what is "
        "kept), and the lab decides.",
        "",
        "| mutant | machine code | source |",
        "|---|---|---|",
        *(
            f"| {row['name']} | {_cell(row['code'])} | {_cell(row['source'])} |"
            for row in sorted(data["mutants"], key=_place)
        ),
        "",
        _count(data["mutants"]),
    ]
    return "\n".join(lines) + "\n"


def _not_yet(versions: Sequence[str]) -> list[str]:
    if not versions:
        return []
    return [f"Not looked at yet: {', '.join(versions)}.", ""]


def _kernel_lines(rows: Sequence[Row]) -> Iterator[str]:
    def cells(row: Row) -> tuple[str, ...]:
        series = row["debian_version"].split(".")[:2]
        return (*series, *(_state(row, commit) for commit in SERIES), _advice(row))

    for (_, _, *shown), group in groupby(rows, cells):
        versions = [row["debian_version"] for row in group]
        name = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
        number = f" ({len(versions)})" if len(versions) > 1 else ""
        yield f"| {name}{number} | {' | '.join(shown)} |"


def _place(row: Row) -> int:
    """Return where in the table of mutants a row's is."""
    return [mutant.name for mutant in (*MUTANTS, *REPAIRS)].index(row["name"])


def _kernel(row: Row) -> tuple[str, str]:
    """Return what names a kernel in rows of both files."""
    return row["release"], row["debian_version"]


def _left(data: Row, lab: Iterable[Row]) -> list[Row]:
    """Return the lab's rows of the kernels that have no row yet."""
    known = {_kernel(row) for row in data["kernels"]}
    return [row for row in lab if row["lab"] == "intel" and _kernel(row) not in known]


def _age(row: Row) -> tuple[Any, str]:
    return upstream_version(row["debian_version"], ""), row["debian_version"]


def _advice(row: Row) -> str:
    findings = [
        Finding(each, State(row["states"][each.id]), unneeded=row["unneeded"].get(each.id, ""))
        for each in SERIES
    ]
    return advice(findings, upstream_version(row["debian_version"], ""))


def _state(row: Row, commit: Commit) -> str:
    state = row["states"][commit.id]
    if state == State.ABSENT:
        return "-" if commit.id in row["unneeded"] else "no"
    if state == State.UNKNOWN:
        return "?"
    return "".join("T" if each == Evidence.TYPES else "C" for each in row["evidence"][commit.id])


def _cell(denied: Mapping[str, str] | None) -> str:
    if denied is None:
        return "not built"
    return "; ".join(f"{name}: {words}" for name, words in denied.items()).replace("|", r"\|")


def _count(rows: Sequence[Row]) -> str:
    code, source = (sum(bool(row[of]) for row in rows) for of in ("code", "source"))
    either = sum(bool(row["code"] or row["source"]) for row in rows)
    return (
        f"Of {len(rows)} mutants machine code shows {code}, source {source}, one of both {either}."
    )


def inspect_kernels(data: Row) -> Iterator[Row]:
    """Give the rows of the kernels that have none yet."""
    archive = Archive(Cache.default(), _say)
    wanted = {_kernel(row) for row in _left(data, json.loads(KERNELS.read_text()))}
    for offer in archive.offers():
        if (offer.release, offer.debian_version) in wanted:
            with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
                debs = archive.download(offer.packages, Path(folder))
                for parts in opened([str(path) for path in debs]):
                    yield kernel_row(parts, offer.debian_version)


def inspect_mutants(data: Row, kernel: str) -> Iterator[Row]:
    """Give the rows of the mutants of a kernel that have none yet."""
    cache = Cache.default()
    found = resolve(kernel, None, cache, _say)
    build_kit = kit.fetch(found, cache, _say)
    builder = ModuleBuilder(build_kit, cache, _say)
    (stock,) = opened([str(found.modules)])
    known = {row["name"] for row in data["mutants"]}
    with tempfile.TemporaryDirectory(prefix="kvmtest-") as folder:
        tree = unpacked(build_kit.source, Path(folder))
        for mutant in (*MUTANTS, *REPAIRS):
            if mutant.name in known or mutant.owner.startswith("svm."):
                continue
            (built,) = opened([str(builder.build([mutant.patch]))])
            parts = replace(
                stock, code={**stock.code, **built.code}, btf={**stock.btf, **built.btf}
            )
            yield mutant_row(mutant, parts, patched(tree, mutant), stock)


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack what mutants change of a kernel's source, and return its folder."""
    parts = [f"*/{part}" for part in ("arch/x86/kvm", "arch/x86/include", "virt/kvm")]
    options = ["--extract", "--strip-components=1", "--wildcards"]
    target = folder / "stock"
    target.mkdir()
    command = ["tar", *options, f"--file={archive}", f"--directory={target}", *parts]
    subprocess.run(command, check=True)
    return target


def patched(tree: Path, mutant: Mutant) -> KernelParts:
    """Return the source of a tree with a mutant's patch."""
    copy = tree.with_name("patched")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tree, copy)
    patch = ["patch", "--strip=1", "--batch", "--silent", f"--input={mutant.patch}"]
    subprocess.run(patch, cwd=copy, check=True)
    texts = {path: (copy / path).read_text() for path in SOURCES if (copy / path).exists()}
    return KernelParts(mutant.name, "", source=texts.get)


def _say(step: str) -> None:
    print(step, file=sys.stderr, flush=True)  # noqa: T201


def main() -> None:
    """Write the page, after what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--mutants", metavar="KERNEL")
    options = parser.parse_args()
    data = load()
    for key, rows in (
        ("kernels", inspect_kernels(data) if options.kernels else ()),
        ("mutants", inspect_mutants(data, options.mutants) if options.mutants else ()),
    ):
        for row in rows:
            data[key].append(row)
            DATA.write_text(json.dumps(data, indent=1) + "\n")
    TARGET.write_text(document(data))


if __name__ == "__main__":
    main()
