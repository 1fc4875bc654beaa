"""Guests
======

What runs inside: images, processor modes, and the mailbox that host and guest share.
"""

from .guest import LOOP_OVERHEAD, Gap, Guest, UnexpectedExit, long_guest, real_guest
from .image import Image, load
from .mailbox import Command, Fault, GuestFault, Result

__all__ = [
    "LOOP_OVERHEAD",
    "Command",
    "Fault",
    "Gap",
    "Guest",
    "GuestFault",
    "Image",
    "Result",
    "UnexpectedExit",
    "load",
    "long_guest",
    "real_guest",
]
