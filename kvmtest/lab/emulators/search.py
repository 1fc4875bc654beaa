"""The search for an emulator
===========================

Runs in a thread of its own: the Intel machine's emulator may have to be built, which takes a
minute, and there is a kernel to fetch meanwhile.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from kvmtest.cache import Cache

from .bochs.build import Builder
from .emulator import Emulator

__all__ = ["Search"]


class Search:
    """A search by ``find``, as a context; where that is left early, what was begun is ended."""

    def __init__(
        self, find: Callable[[Builder], Emulator], cache: Cache, on_step: Callable[[str], None]
    ) -> None:
        self._builder = Builder(cache, on_step)
        self._thread = ThreadPoolExecutor(1)
        self._found = self._thread.submit(find, self._builder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._builder.cancel()
        self._thread.shutdown()

    def result(self) -> Emulator:
        """Wait for the emulator; raises EnvironmentUnfit where there is none."""
        return self._found.result()
