"""What was found out about known defects goes along with the package."""

from pathlib import Path

import pytest

from kvmtest.cli import main
from kvmtest.findings import findings, patch, read, reference
from kvmtest.known_defects import KNOWN_DEFECTS

Capture = pytest.CaptureFixture[str]
DOCS = Path(__file__).resolve().parents[2] / "docs/findings"
NAME = "lost-update-while-emulating"


def test_all_findings_of_the_docs_are_there() -> None:
    assert {name: read(name) for name in findings()} == {
        path.stem: path.read_text() for path in DOCS.glob("*.md")
    }


@pytest.mark.parametrize("defect", KNOWN_DEFECTS, ids=lambda d: d.property_id)
def test_the_finding_about_a_known_defect_is_named_with_what_prints_it(
    defect: "object", capsys: Capture
) -> None:
    words = reference(defect.finding)  # type: ignore[attr-defined]
    command = words.partition("(")[2].rstrip(")").split()
    assert command[0] == "kvmtest"
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.startswith("# ")


@pytest.mark.parametrize("name", [NAME, f"{NAME}.md", f"docs/findings/{NAME}.md"])
def test_a_finding_is_printed_by_its_name_or_path(capsys: Capture, name: str) -> None:
    assert main(["finding", name]) == 0
    assert capsys.readouterr().out == (DOCS / f"{NAME}.md").read_text()


@pytest.mark.parametrize("name", findings())
def test_a_finding_opens_with_who_is_hit_and_ends_with_a_patch(name: str) -> None:
    first, blank, *rows = read(name).splitlines()
    assert (first[:2], blank, rows[:2]) == ("# ", "", ["| | |", "|---|---|"])
    asked = ["who is hit", "how badly", "since when", "status", "shown by"]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:7]] == asked
    assert f"`kvmtest reproduce {name} " in rows[6]
    assert read(name).endswith(f"```diff\n{patch(name)}```\n")
    assert patch(name).startswith("Subject: [PATCH")


def test_a_finding_s_patch_is_printed_alone(capsys: Capture) -> None:
    assert main(["finding", NAME, "--patch"]) == 0
    assert capsys.readouterr().out == patch(NAME)
    assert main(["finding", "--patch"]) == 2
    assert "--patch needs the name" in capsys.readouterr().err


def test_without_a_name_they_are_listed(capsys: Capture) -> None:
    assert main(["finding"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in findings())


@pytest.mark.parametrize("name", ["nothing", "", "../verdicts", "/etc/passwd", "x\0y", "n" * 5000])
def test_another_name_is_a_usage_error(capsys: Capture, name: str) -> None:
    assert main(["finding", name]) == 2
    message = capsys.readouterr().err
    assert all(known in message for known in ("there are ", *findings()))


def test_a_finding_that_is_not_here_is_named_as_it_is() -> None:
    assert reference("docs/findings/of-a-later-version.md") == (
        "docs/findings/of-a-later-version.md"
    )
