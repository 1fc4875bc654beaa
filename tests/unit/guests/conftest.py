"""What the tests of guests share."""

from collections.abc import Iterator

import pytest

from kvmtest._native import lib
from kvmtest.kvm import Memory


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory(lib.GUEST_MEMORY_SIZE, 0)
    yield memory
    memory.close()
