"""Findings
========

The reports about bugs found in kernels, which go along with the package: evidence names one by its
path in the source tree, and ``kvmtest finding NAME`` prints it wherever kvmtest is installed.
"""

import re
from pathlib import Path

from kvmtest.errors import UsageError

__all__ = ["command", "findings", "patch", "read", "reference"]

# docs/findings: a link in the source tree, a folder in a wheel.
_FOLDER = Path(__file__).with_name("text")

_PATCH = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def findings() -> dict[str, str]:
    """Return the title of each finding by its name."""
    return {path.stem: _title(path.read_text()) for path in sorted(_FOLDER.glob("*.md"))}


def read(name: str) -> str:
    """Return a finding's text; its name may be its path too. Raises UsageError for another."""
    known = findings()
    stem = Path(name).name.removesuffix(".md")
    if stem not in known:
        raise UsageError(f"there is no finding {name}; there are {', '.join(known)}")
    return (_FOLDER / f"{stem}.md").read_text()


def patch(name: str) -> str:
    """Return the patch at a finding's end, as ``git apply`` takes it. Raises UsageError, as read().

    The text before it names the kernel's source that it was made against.
    """
    found = _PATCH.search(read(name))
    if found is None:
        raise UsageError(f"the finding {name} has no patch; kvmtest finding {name} says why")
    return found[1]


def reference(finding: str) -> str:
    """Return how a report names a finding, given as evidence has it, so that a reader gets at it.

    A finding of another version's evidence may not be here, and is named as it is.
    """
    shown_by = command(finding)
    return f"{finding} ({shown_by})" if shown_by else finding


def command(finding: str) -> str:
    """Return the command that prints a finding of evidence; "" for one that is not here."""
    name = Path(finding).name.removesuffix(".md")
    return f"kvmtest finding {name}" if name in findings() else ""


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")
