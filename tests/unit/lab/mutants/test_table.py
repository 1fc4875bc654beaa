"""The table of mutants and its patches are consistent with each other and with the properties."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from kvmtest.errors import UsageError
from kvmtest.lab.mutants import MUTANTS, REPAIRS, UNCOVERED, Mutant, find
from kvmtest.lab.parameters import Parameters
from kvmtest.properties import PROPERTIES

ALL = (*MUTANTS, *REPAIRS)
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
each_mutant = pytest.mark.parametrize("mutant", ALL, ids=lambda m: m.name)


def diff(patch: Path) -> str:
    """Return what follows the header."""
    return patch.read_text()[patch.read_text().index("\n--- ") + 1 :]


def hunks(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield file, head and lines of each hunk of a unified diff."""
    file, lines = "", iter(text.splitlines())
    for line in lines:
        if line.startswith("--- "):
            file = line.removeprefix("--- a/")
            assert next(lines) == f"+++ b/{file}"
            continue
        match = HUNK.match(line)
        assert match, line
        old, new = int(match[2] or 1), int(match[4] or 1)
        body: list[str] = []
        while old or new:
            body.append(next(lines))
            old -= body[-1][0] in " -"
            new -= body[-1][0] in " +"
        yield file, line, body


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(m.name for m in ALL).items() if count > 1] == []


@each_mutant
def test_a_name_is_made_of_words(mutant: Mutant) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", mutant.name)


def test_every_patch_is_in_the_table_and_has_its_file() -> None:
    assert {path.name for path in MUTANTS[0].patch.parent.iterdir()} == {m.patch.name for m in ALL}


@each_mutant
def test_the_owner_is_a_property(mutant: Mutant) -> None:
    assert mutant.owner in {p.id for p in PROPERTIES}


def test_every_property_of_entries_and_guests_owns_a_mutant() -> None:
    # "Back" asks for no change, which no line of the fix could miss alone.
    expected = {p.id for p in PROPERTIES if p.id.startswith(("vmx.entry.", "vmx.guest."))}
    owners = {m.owner for m in ALL}
    assert expected - owners == {"vmx.entry.toggled-back"}


@each_mutant
def test_parameters_are_of_modules_that_the_machine_loads(mutant: Mutant) -> None:
    vendor = "kvm_amd" if mutant.owner.startswith("svm.") else "kvm_intel"
    written = " ".join(mutant.parameters)
    assert str(Parameters.parse(mutant.parameters, vendor)) == written


@each_mutant
def test_a_patch_says_above_its_diff_what_is_wrong_and_what_is_seen(mutant: Mutant) -> None:
    assert 2 <= len(re.findall(r"[.](?: |$)", mutant.fault)) <= 4 or mutant in REPAIRS
    assert mutant.fault.endswith(".")
    header = mutant.patch.read_text().partition("\n--- ")[0]
    assert max(map(len, header.splitlines())) <= 78


@each_mutant
def test_a_patch_is_a_unified_diff_that_changes_something_in_each_hunk(mutant: Mutant) -> None:
    for _, head, body in hunks(diff(mutant.patch)):
        assert any(line[0] in "+-" for line in body), head


@each_mutant
def test_a_patch_touches_kvm_alone(mutant: Mutant) -> None:
    for file, _, _ in hunks(diff(mutant.patch)):
        path = PurePosixPath(file)
        assert path.is_relative_to("arch/x86/kvm") or path.match("arch/x86/include/asm/kvm*.h")


@each_mutant
def test_a_patch_leaves_no_trailing_blanks(mutant: Mutant) -> None:
    added = [line for line in diff(mutant.patch).splitlines() if line.startswith("+")]
    assert [line for line in added if line != line.rstrip()] == []


def test_no_two_patches_change_the_same() -> None:
    changes = Counter(
        "".join(line for _, _, body in hunks(diff(m.patch)) for line in body if line[0] in "+-")
        for m in ALL
    )
    assert max(changes.values()) == 1


def test_lines_left_out_have_a_fault_and_a_reason() -> None:
    assert len({(u.line, u.fault) for u in UNCOVERED}) == len(UNCOVERED)
    assert all(u.fault and u.reason for u in UNCOVERED)


def test_a_line_left_out_as_another_mutants_names_one_that_exists() -> None:
    named = {n for u in UNCOVERED for n in re.findall(r"as by ([a-z0-9-]+)", u.reason)}
    assert named
    assert named <= {m.name for m in MUTANTS}


def test_a_mutant_is_found_by_its_name() -> None:
    assert [find(m.name) for m in ALL] == list(ALL)


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"^no mutant fix-revert; did you mean fix-reverted\?$"):
        find("fix-revert")


def test_a_name_like_no_other_gets_the_way_to_the_list() -> None:
    with pytest.raises(UsageError, match=r"^no mutant q; see docs/mutants\.md$"):
        find("q")
