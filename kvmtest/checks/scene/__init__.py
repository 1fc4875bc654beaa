"""The scene of a check
====================

What checks share: the knob and guests, the guests' MSRs, and the CPUs that threads run on.
"""

from .scene import Observations, Scene

__all__ = ["Observations", "Scene"]
