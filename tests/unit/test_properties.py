"""The table of properties is consistent with itself and with what it refers to."""

import inspect
import re
from collections import Counter

import pytest

from kvmtest.checks import check_of
from kvmtest.checks.preconditions import PRECONDITIONS
from kvmtest.errors import UsageError
from kvmtest.properties import MARKERS, PROPERTIES, WITNESSES, Property, find, select

each_property = pytest.mark.parametrize("prop", PROPERTIES, ids=lambda p: p.id)


def test_ids_are_unique() -> None:
    assert [i for i, count in Counter(p.id for p in PROPERTIES).items() if count > 1] == []


@each_property
def test_ids_are_dotted_words_as_the_evidence_schema_has_them(prop: Property) -> None:
    assert re.fullmatch(r"[a-z]+(\.[a-z0-9-]+)+", prop.id)


@each_property
def test_a_row_refers_to_what_exists(prop: Property) -> None:
    assert set(prop.markers) <= set(MARKERS)
    assert set(prop.asks) <= set(PRECONDITIONS)
    assert set(prop.witnesses) <= set(WITNESSES)


@each_property
def test_a_property_has_a_claim_a_witness_and_a_source(prop: Property) -> None:
    assert prop.claim
    assert not prop.claim.endswith(".")
    assert prop.witnesses
    assert prop.source


@each_property
def test_words_are_not_said_twice(prop: Property) -> None:
    for words in (prop.markers, prop.asks, prop.witnesses):
        assert len(set(words)) == len(words)


@each_property
def test_a_row_of_a_vendor_begins_with_its_module_and_the_marker_is_there(prop: Property) -> None:
    markers = {"kvm-intel": "intel", "kvm-amd": "amd"}
    assert {markers[vendor] for vendor, *_ in prop.vendors} <= set(prop.markers)


@pytest.mark.parametrize("prop", [p for p in PROPERTIES if p.has_check], ids=lambda p: p.id)
def test_a_check_is_a_generator_that_the_property_s_id_names(prop: Property) -> None:
    check, words = check_of(prop), prop.id.replace("-", "_")
    assert inspect.isgeneratorfunction(check)
    name = f"{check.__module__}.{check.__name__}"
    assert name in (f"kvmtest.checks.{words}", f"kvmtest.checks.{words}.{check.__name__}")
    assert list(inspect.signature(check).parameters) == ["context"]


def test_every_precondition_is_asked_for() -> None:
    asked = {need for p in PROPERTIES for need in p.asks}
    asked |= {need for w in WITNESSES.values() for need in w.needs}
    assert asked == set(PRECONDITIONS)


def test_every_witness_and_marker_is_used() -> None:
    assert {w for p in PROPERTIES for w in p.witnesses} == set(WITNESSES)
    assert {m for p in PROPERTIES for m in p.markers} == set(MARKERS)


def test_a_witness_needs_preconditions_that_exist() -> None:
    for name, witness in WITNESSES.items():
        assert witness.name == name
        assert set(witness.needs) <= set(PRECONDITIONS)


def test_what_looks_back_on_all_others_comes_last() -> None:
    assert PROPERTIES[-1].id == "any.no-warnings"


def test_commits_are_named_by_twelve_digits() -> None:
    for prop in PROPERTIES:
        if "commit" in prop.source:
            assert re.search(r"\bcommit [0-9a-f]{12} \(", prop.source), prop.source


# Finding them


def test_a_property_is_found_by_its_id() -> None:
    assert [find(p.id) for p in PROPERTIES] == list(PROPERTIES)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("vmx.entry.frsh", "vmx.entry.fresh"),
        ("kernel.fix_present", "kernel.fix-present"),
        ("any.no-warning", "any.no-warnings"),
        ("rdmsr-hides", "guest.rdmsr-hides"),
    ],
)
def test_a_misspelt_id_gets_the_nearest_one(wrong: str, right: str) -> None:
    with pytest.raises(UsageError, match=rf"^no property {wrong}; did you mean {right}\?$"):
        find(wrong)


@pytest.mark.parametrize("wrong", ["", "qqqqqqqqqqqq", "0"])
def test_an_id_like_no_other_gets_the_way_to_the_list(wrong: str) -> None:
    with pytest.raises(UsageError, match="see kvmtest list"):
        find(wrong)


def test_a_selection_keeps_the_order_of_the_table() -> None:
    named = ["any.no-warnings", "kernel.fix-present", "any.no-warnings"]
    assert [p.id for p in select(named)] == ["kernel.fix-present", "any.no-warnings"]
    assert select([]) == PROPERTIES


def test_a_selection_with_one_wrong_id_is_refused() -> None:
    with pytest.raises(UsageError, match=r"did you mean any\.soak\?"):
        select(["kernel.fix-present", "any.soap"])
