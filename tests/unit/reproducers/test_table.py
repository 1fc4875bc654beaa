"""The table of reproducers, and how one is found in it."""

import pytest

from kvmtest.errors import UsageError
from kvmtest.findings import findings
from kvmtest.properties import PROPERTIES
from kvmtest.reproducers import REPRODUCERS, find


def test_each_shows_a_finding_or_a_property() -> None:
    names = [each.name for each in REPRODUCERS]
    assert set(names) <= {*findings(), *(each.id for each in PROPERTIES)}
    assert len(set(names)) == len(names)


def test_every_finding_has_one() -> None:
    assert set(findings()) <= {each.name for each in REPRODUCERS}


@pytest.mark.parametrize(
    "name",
    ["vmx.entry.toggled", "lost-dr6-while-emulating", "docs/findings/lost-dr6-while-emulating.md"],
)
def test_it_is_found_by_a_name_or_the_path_of_a_finding(name: str) -> None:
    assert find(name).name in name


@pytest.mark.parametrize("name", ["nothing", "", "../verdicts", "vmx", "x\0y", "n" * 5000])
def test_another_name_is_refused_with_all_that_there_are(name: str) -> None:
    with pytest.raises(UsageError) as error:
        find(name)
    assert all(each.name in str(error.value) for each in REPRODUCERS)


def test_a_slip_is_answered_with_what_may_be_meant() -> None:
    with pytest.raises(UsageError, match=r"did you mean vmx.entry.toggled\?"):
        find("vmx.entry.togled")


def test_it_says_what_it_shows_and_where_more_is_written() -> None:
    assert find("lost-dr6-while-emulating").about == (
        "A guest's DR6 is lost while KVM emulates invalid guest state: see kvmtest finding "
        "lost-dr6-while-emulating."
    )
    assert "commit 6b1dd26544d0 (in v6.17)" in find("vmx.entry.toggled").about
