"""The samples of output in README.md and docs/ are what kvmtest prints."""

import runpy
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[3]
TOOL: dict[str, Any] = runpy.run_path(str(PROJECT / "tools" / "samples.py"))
WITH_SAMPLES = [path for path in TOOL["PAGES"] if TOOL["SAMPLE"].search(path.read_text())]
PAGE = """\
Before.

<!-- printed by: kvmtest report -v tests/recorded/intel-lab-strict.json
from "kernel "
from "verdict" until "    " -->

```text
anything
```
After.
"""


@pytest.mark.parametrize("page", WITH_SAMPLES, ids=lambda path: path.name)
def test_the_samples_of_a_page_are_what_kvmtest_prints(page: Path) -> None:
    # Lines, as pytest takes a minute to compare such texts letter by letter.
    assert TOOL["renewed"](page.read_text()).splitlines() == page.read_text().splitlines()


def test_the_readme_has_samples() -> None:
    assert PROJECT / "README.md" in WITH_SAMPLES


def test_a_sample_has_the_pieces_asked_for_and_dots_between_them() -> None:
    sample = TOOL["renewed"](PAGE).partition("```text\n")[2].partition("```\n")
    left_out, kernel, blank, head, verdict, end = sample[0].splitlines()
    assert kernel.split() == ["kernel", "6.12.117+deb12-amd64"]
    assert head.split() == ["verdict", "property", "reason"]
    assert verdict.startswith("FAIL     vmx.entry.after-emulation  known defect")
    assert (left_out, blank, end, sample[2]) == ("...", "", "...", "After.\n")


def test_a_piece_that_is_not_printed_is_an_error() -> None:
    with pytest.raises(ValueError, match="no line begins with 'kernels'"):
        TOOL["renewed"](PAGE.replace('"kernel "', '"kernels"'))
