"""Finding Bochs
=============

The lab's own build of the emulator, or where it can't be built the distribution's.
"""

from kvmtest.errors import EnvironmentUnfit
from kvmtest.lab.emulators.emulator import Emulator

from .build import Builder, BuildFailed
from .built import BuiltBochs, program
from .selftest import SelfTestFailed, proved
from .source import SourceMissing, source
from .stock import StockBochs

__all__ = ["find"]


def find(builder: Builder) -> Emulator:
    """Return the emulator, built with ``builder`` if it is not in the cache yet.

    Raises EnvironmentUnfit where there is neither, and Cancelled.
    """
    try:
        build = builder.build(source(builder.cache, builder.on_step))
        return BuiltBochs(build, proved(builder.cache, program(build), build.digest))
    except (BuildFailed, SelfTestFailed, SourceMissing) as error:
        reason = str(error)
    try:
        found = StockBochs.find(f"the lab's own is not used: {reason}")
    except EnvironmentUnfit:
        # What keeps the better one from being built is what to mend.
        raise EnvironmentUnfit(f"the lab has no emulator: {reason}") from None
    builder.on_step(f"Bochs {found.version} as installed, without counters; {found.why}")
    return found
