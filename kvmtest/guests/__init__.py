"""Guests
======

What runs inside: images, processor modes, and the mailbox that host and guest share.
"""

from .guest import LOOP_OVERHEAD, Gap, Guest, UnexpectedExit, guest_memory, long_guest, real_guest
from .image import Image, load
from .mailbox import Command, Fault, GuestFault, Result
from .spinning import Spinning

__all__ = [
    "LOOP_OVERHEAD",
    "Command",
    "Fault",
    "Gap",
    "Guest",
    "GuestFault",
    "Image",
    "Result",
    "Spinning",
    "UnexpectedExit",
    "guest_memory",
    "load",
    "long_guest",
    "real_guest",
]
