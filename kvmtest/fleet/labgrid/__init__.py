"""labgrid: hosts that its coordinator lends, and kvmtest's states of a host for its pytest plugin.

An environment file that imports this module can name the driver and the strategy that are here.
"""

from .checked_ssh import CheckedSSHDriver
from .strategy import KernelStrategy, Status

__all__ = ["CheckedSSHDriver", "KernelStrategy", "Status"]
