"""What whoever joins reads first names files, targets and folders that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
#: Targets of the kernel's own Makefile, which pages name too.
OF_KERNELS = {"bindeb-pkg", "kernelrelease", "olddefconfig"}
GITHUB = ROOT / ".github" / "ISSUE_TEMPLATE" / "wrong-verdict.md"
GITLAB = ROOT / ".gitlab" / "issue_templates" / "wrong-verdict.md"


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text())
    assert targets
    missing = [t for t in targets if not t.startswith("https://") and not (ROOT / t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_each_path_that_is_named_exists(page: str) -> None:
    named = re.findall(
        r"(?<![\w/.~])((?:tools|tests|docs|kvmtest|bench)/[\w./-]*\w)", (ROOT / page).read_text()
    )
    made_up = [path for path in named if "NAME" not in path]
    assert made_up
    assert [path for path in made_up if not (ROOT / path).exists()] == []


def test_each_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    target = re.compile(r"(?:`|^    )make ([a-z][a-z-]*)", re.MULTILINE)
    named = {t for page in pages for t in target.findall(page.read_text())} - OF_KERNELS
    assert {"lint", "check", "test", "fleet-demo"} <= named
    assert [t for t in named if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_the_changelog_keeps_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", v) for v in versions[1:])
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for part in text.split("\n## ")[1:]:
        found = re.findall(r"^### (.*)$", part, re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found]


def test_both_forges_ask_for_the_same() -> None:
    head, _, body = GITHUB.read_text().removeprefix("---\n").partition("\n---\n\n")
    assert body == GITLAB.read_text()
    assert "evidence.json" in body
    assert "kvmtest run -o DIR" in body
    # What GitHub asks of a template's head.
    fields = yaml.safe_load(head)
    assert set(fields) == {"name", "about", "title", "labels", "assignees"}
    assert fields["name"]
    assert fields["about"]
