"""Missing preconditions
=====================

What a machine lacks for an observation. doctor, SKIP reasons and evidence share the value.
"""

import re
from dataclasses import dataclass

__all__ = ["Missing"]


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that this machine lacks, in words, and how to get it.

    ``what`` is a statement, such as "kvm_intel is not loaded (KVM here is kvm_pvm)". ``remedy`` is
    an imperative, empty where nothing on this machine helps. A cause stands behind a colon in
    ``what``, details in parentheses.
    """

    what: str
    remedy: str = ""

    @property
    def brief(self) -> str:
        """The reason in short, for a line that says what is missing: the first cause alone."""
        statement, _, causes = self.what.partition(": ")
        return re.sub(r" \([^()]*\)", "", causes.partition("; ")[0] or statement)

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what
