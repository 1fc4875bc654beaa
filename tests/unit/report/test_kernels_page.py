"""kvmtest/report/kernels_page.py: rows fold into ranges, and changes are said in words."""

from pathlib import Path

import pytest

from kvmtest.lab.survey import Surveyed
from kvmtest.report.kernels_page import page

BOCHS, QEMU = "Bochs 3.0, skylake, 1 CPU", "QEMU 7.2, EPYC, 2 CPU"
FRESH, TOGGLED, BACK = "vmx.entry.fresh", "vmx.entry.toggled", "vmx.entry.toggled-back"
SOAK, LOG, FIX = "any.soak", "any.no-warnings", "kernel.fix-present"
QUIRK, FREEZE_BIT = "nvmx.vmcs12.quirk-disabled", "nvmx.vmcs12.freeze-bit"
DOCS = Path(__file__).resolve().parents[3] / "docs"
GUEST = "vmx.guest.wrmsr-refused"
GOOD = dict.fromkeys((FIX, FRESH, TOGGLED, BACK, GUEST, SOAK, LOG), "PASS")


def row(
    version: str,
    verdicts: dict[str, str] | None = None,
    *,
    build: str = "",
    machine: str = BOCHS,
    failure: str = "",
    known: dict[str, str] | None = None,
) -> Surveyed:
    own = {} if failure else GOOD | (verdicts or {})
    return Surveyed(
        f"{version}{build}-amd64", version, f"{version}-1", "2026-01-02", "0.1.0", machine, own,
        known or {}, failure=failure,
    )  # fmt: skip


def story(*rows: Surveyed, machine: str = BOCHS) -> list[str]:
    """The lines of what changed in a machine."""
    part = page(rows).split(f"\n## {machine}\n")[1].split("\n##")[0]
    return [line.removeprefix("* ") for line in part.splitlines() if line]


def test_kernels_that_are_all_alike_are_one_line() -> None:
    rows = [row(f"6.12.{n}") for n in (43, 57, 100)] + [row("6.1.170"), row("7.3.4")]
    assert story(*rows) == [
        "**6.1.170**, **6.12.43 to 6.12.100** and **7.3.4** (5 kernels): "
        "PASS `kernel.fix-present`, `vmx.*` and `any.*`"
    ]


def test_an_odd_one_in_the_middle_parts_its_neighbours() -> None:
    odd = row("6.12.9", {SOAK: "FAIL"})
    rows = [row("6.12.7"), row("6.12.8"), odd, row("6.12.10"), row("6.12.11")]
    assert story(*rows)[1:] == [
        "**6.12.9**: `any.soak` goes from PASS to **FAIL**",
        "**6.12.10 to 6.12.11** (2 kernels): `any.soak` goes from **FAIL** to PASS",
    ]
    assert story(*rows)[0].startswith("**6.12.7 to 6.12.8** (2 kernels): PASS ")


def test_a_family_that_changes_as_a_whole_is_named_by_its_prefix() -> None:
    old = row("6.1.1", dict.fromkeys((FRESH, TOGGLED, BACK, SOAK), "FAIL"))
    assert story(old, row("6.1.149"))[1] == (
        "**6.1.149**: `vmx.entry.*` and `any.soak` go from **FAIL** to PASS"
    )
    old = row("6.1.1", dict.fromkeys((FRESH, TOGGLED), "FAIL"))
    assert story(old, row("6.1.149"))[1] == (
        "**6.1.149**: `vmx.entry.fresh` and `vmx.entry.toggled` go from **FAIL** to PASS"
    )


def test_what_is_decided_from_a_kernel_on_or_no_longer_is_said() -> None:
    rows = [row("6.12.77"), row("6.12.78", {QUIRK: "PASS"}), row("6.12.79", {FIX: "SKIP"})]
    assert story(*rows)[1:] == [
        "**6.12.78**: the vmcs12 quirk appears; `nvmx.vmcs12.quirk-disabled` is decided: PASS",
        "**6.12.79**: the vmcs12 quirk is gone; `kernel.fix-present` and "
        "`nvmx.vmcs12.quirk-disabled` are no longer decided (before: PASS)",
    ]


def test_what_becomes_of_an_l1_that_sets_bit_14_in_vmcs12_is_told_apart() -> None:
    taken, refused = {FIX: "SKIP", FREEZE_BIT: "FAIL"}, {FREEZE_BIT: "PASS"}
    by_quirk = refused | {QUIRK: "PASS"}
    rows = [
        row("5.10.262", taken),
        row("6.1.149", refused),
        row("6.12.77", refused),
        row("6.12.78", by_quirk),
        row("6.12.79"),
        row("6.12.80", by_quirk),
    ]
    told = page(rows).partition("\n### An L1 that sets bit 14 of its L2's DEBUGCTL\n\n")[2]
    first, second, third = told.partition("\n\n")[0].splitlines()
    assert first == "* **5.10.262**: enters L2: the kernel has no rule for the bit"
    assert second.startswith("* **6.1.149** and **6.12.77** (2 kernels): can't enter L2, ")
    assert third.startswith("* **6.12.78 to 6.12.80** (2 kernels): enters L2, which runs with the ")
    finding = second.partition("](")[2].rstrip(")")
    assert (DOCS / finding).is_file()


def test_a_kernel_that_fails_is_not_told_to_treat_an_l1_as_it_should() -> None:
    for verdicts in ({FREEZE_BIT: "FAIL"}, {FREEZE_BIT: "FAIL", QUIRK: "PASS"}):
        said = "* **6.12.77**: is not treated as the kernel's capability says\n"
        assert said in page([row("6.12.77", verdicts)])


def test_without_nested_columns_nothing_is_told_of_an_l1() -> None:
    assert "An L1 that sets" not in page([row("6.12.77")])


def test_a_defect_that_becomes_known_is_a_change() -> None:
    finding = {SOAK: "docs/findings/a.md"}
    rows = [row("6.12.7", {SOAK: "FAIL"}), row("6.12.8", {SOAK: "FAIL"}, known=finding)]
    assert story(*rows)[1] == "**6.12.8**: `any.soak` goes from **FAIL** to **FAIL** †"
    assert "* † `any.soak`: [docs/findings/a.md](findings/a.md)" in page(rows)


def test_a_failed_run_is_a_line_of_its_own_and_changes_nothing() -> None:
    rows = [row("6.12.7"), row("6.12.8", failure="it panicked"), row("6.12.9")]
    assert story(*rows)[1:] == [
        "**6.12.8**: nothing was decided: it panicked",
        "**6.12.9**: as 6.12.7",
    ]
    failed = row("6.12.7", failure="it panicked")
    assert story(failed, row("6.12.8"))[1].startswith("**6.12.8**: PASS ")


def test_kernels_of_one_version_that_disagree_are_named_by_their_releases() -> None:
    rows = [
        row("6.12.90", {SOAK: "FAIL"}, build="+deb12"),
        row("6.12.90", build="+deb13"),
        row("6.12.94"),
    ]
    assert [line.partition(":")[0] for line in story(*rows)] == [
        "**6.12.90+deb12-amd64**",
        "**6.12.90+deb13-amd64 to 6.12.94** (2 kernels)",
    ]


def test_each_machine_has_its_own_story_and_table() -> None:
    of_amd = row("6.12.7", {"svm.flag-never": "FAIL"} | dict.fromkeys(GOOD, "SKIP"), machine=QEMU)
    rows = [row("6.12.7"), of_amd]
    assert story(*rows, machine=QEMU) == ["**6.12.7**: **FAIL** `svm.flag-never`"]
    table = page(rows).split(f"## All kernels: {QEMU}\n")[1].strip().splitlines()
    assert table == [
        "| kernel | version | built | `svm.flag-never` |",
        "|---|---|---|---|",
        "| 6.12.7-amd64 | 6.12.7-1 | 2026-01-02 | **FAIL** |",
    ]


def test_the_whole_table_has_every_kernel_the_oldest_first() -> None:
    versions = ["6.1.170", "6.12.9", "6.12.43", "6.12.100", "7.3.4"]
    text = page([row(version) for version in reversed(versions)])
    lines = text.split("## All kernels")[1].splitlines()
    assert [line.split(" | ")[1] for line in lines if line.startswith("| ")][1:] == [
        f"{version}-1" for version in versions
    ]


def test_without_rows_the_page_says_so() -> None:
    assert page([]).endswith("\nNo kernel was surveyed yet.\n")


@pytest.mark.parametrize("known", ["SKIP", "MEASURED"])
def test_what_decides_nothing_parts_no_neighbours(known: str) -> None:
    assert len(story(row("6.12.7"), row("6.12.8", {QUIRK: known}))) == 1
