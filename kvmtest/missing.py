"""Missing preconditions
=====================

What a machine lacks for an observation, as a value that doctor, SKIP reasons and evidence share.
"""

from dataclasses import dataclass

__all__ = ["Missing"]


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing this machine lacks, in words, and how to get it.

    ``what`` is a statement of its own, such as
    "kvm_intel is not loaded (KVM here is kvm_pvm)". ``remedy`` is an imperative, or empty where
    nothing can be done on this machine.
    """

    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what
