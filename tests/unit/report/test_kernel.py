"""report/kernel.py: the conclusion first, a line for each commit, then what to backport."""

import io
from dataclasses import replace

import pytest

from kvmtest.kernels.parts import KernelParts
from kvmtest.kernels.series import (
    FIX,
    QUIRK,
    SERIES,
    TDX,
    Evidence,
    Finding,
    State,
    unknown,
)
from kvmtest.report.kernel import as_json, show
from kvmtest.report.terminal import console

PARTS = KernelParts(
    "k.deb", "the package /tmp/k.deb", "6.12.7-amd64", (6, 12, 7), package="linux-image 6.12.7-1"
)
PRESENT = tuple(
    Finding(commit, State.PRESENT, (Evidence.TYPES, Evidence.CODE), "seen") for commit in SERIES
)
ABSENT = tuple(
    Finding(commit, State.ABSENT, (Evidence.TYPES,), "there is no member") for commit in SERIES
)


def with_state(commit: object, **values: object) -> tuple[Finding, ...]:
    return tuple(
        replace(each, **values) if each.commit == commit else each  # type: ignore[arg-type]
        for each in PRESENT
    )


def lines(
    findings: tuple[Finding, ...], parts: KernelParts = PARTS, *, verbose: bool = False
) -> list[str]:
    stream = io.StringIO()
    show(console(stream), parts, findings, verbose=verbose)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_kernel_that_has_all_says_so_in_the_first_line_and_the_last() -> None:
    shown = lines(PRESENT)
    assert shown[0] == "present: 6.12.7-amd64 has the fix, by its types and machine code"
    assert shown[1] == "Linux 6.12.7, linux-image 6.12.7-1"
    assert [line.split()[:2] for line in shown[2:-1]] == [["present", c.id] for c in SERIES]
    assert all(line.endswith("types, code") for line in shown[2:-1])
    assert shown[-1] == "Nothing is missing."


def test_a_kernel_without_the_fix_says_what_shows_it_and_what_to_backport() -> None:
    shown = lines(ABSENT)
    assert shown[0] == "absent: 6.12.7-amd64 lacks the fix: there is no member"
    assert "Backport the whole series" in " ".join(shown)


def test_a_kernel_that_lacks_what_goes_with_the_fix_says_so_first() -> None:
    text = " ".join(lines(with_state(QUIRK, state=State.ABSENT)))
    assert f" has the fix, by its types and machine code, and lacks {QUIRK.id}" in text


def test_a_commit_that_the_kernel_needs_not_is_not_missing() -> None:
    findings = with_state(TDX, state=State.ABSENT, unneeded="it has no TDX")
    shown = lines(findings)
    assert "lacks" not in shown[0]
    (row,) = (line for line in shown if TDX.id in line)
    assert (row.split()[0], row.split()[-2:]) == ("absent", ["not", "needed"])
    assert any("seen; it has no TDX" in line for line in lines(findings, verbose=True))


def test_where_nothing_could_be_seen_there_is_no_table_but_the_reason() -> None:
    parts = replace(
        PARTS, lacks=("k.deb has no modules; put m.deb beside it", "kvm_amd is damaged")
    )
    asked = "unknown: whether 6.12.7-amd64 has the fix can't be seen:"
    assert " ".join(lines(unknown("no types"))).startswith(f"{asked} no types")
    shown = lines(unknown("no types"), parts)
    text = " ".join(shown)
    assert text.startswith(f"{asked} k.deb has no modules; put m.deb beside it")
    assert text.count("k.deb has no modules") == 1
    assert "Not examined: kvm_amd is damaged" in shown
    assert not any(commit.id in line for line in shown for commit in SERIES)


def test_verbose_has_subject_version_and_observation() -> None:
    text = " ".join(" ".join(lines(PRESENT, verbose=True)).split())
    assert "Preserve host's DEBUGCTLMSR_FREEZE_IN_SMM" in text
    assert "(in v7.0)" in text
    assert "seen" in text


def test_a_path_is_never_broken() -> None:
    path = "/a/" + "long/" * 30 + "vmlinuz"
    parts = KernelParts("n", f"the image {path}", lacks=(f"{path} has no types",))
    assert sum(path in line for line in lines(PRESENT, parts)) == 2


def test_every_line_fits_eighty_columns() -> None:
    assert max(map(len, lines(PRESENT))) <= 80


@pytest.mark.parametrize("field", ["release", "package", "origin"])
def test_names_from_a_package_can_not_steer_the_terminal(field: str) -> None:
    parts = replace(KernelParts("n", "o"), **{field: "\x1b[31mred[bold]"})  # type: ignore[arg-type]
    shown = "\n".join(lines(PRESENT, parts))
    assert "\x1b" not in shown
    assert "red[bold]" in shown


def test_json_has_all_that_the_page_has() -> None:
    found = as_json(PARTS, with_state(QUIRK, state=State.UNKNOWN, evidence=(), observation=""))
    assert (found["release"], found["version"], found["fix"]) == (
        "6.12.7-amd64", "6.12.7", "present",
    )  # fmt: skip
    by_id = {commit["id"]: commit for commit in found["commits"]}
    assert by_id[FIX.id] == {
        "id": FIX.id,
        "subject": FIX.subject,
        "in_version": "v6.17",
        "state": "present",
        "evidence": ["types", "machine code"],
        "observation": "seen",
        "unneeded": None,
    }
    assert by_id[QUIRK.id]["state"] == "unknown"
    assert QUIRK.id in found["advice"]
