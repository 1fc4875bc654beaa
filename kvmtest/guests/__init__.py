"""Guests
======

What runs inside a VM: images, the processor modes that they start in, the commands that they take,
and the transports that carry these.
"""

from .commands import Command, Fault, GuestFault, Result, TscGap
from .guest import Guest, Rings, UnexpectedExit, guest_memory, long_guest, private_guest, real_guest
from .image import Image, load
from .mailbox import LOOP_OVERHEAD, Mailbox
from .registers import Registers
from .spinning import Spinning
from .td import td_guest
from .transport import Transport

__all__ = [
    "LOOP_OVERHEAD",
    "Command",
    "Fault",
    "Guest",
    "GuestFault",
    "Image",
    "Mailbox",
    "Registers",
    "Result",
    "Rings",
    "Spinning",
    "Transport",
    "TscGap",
    "UnexpectedExit",
    "guest_memory",
    "load",
    "long_guest",
    "private_guest",
    "real_guest",
    "td_guest",
]
