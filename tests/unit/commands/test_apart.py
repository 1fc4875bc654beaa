"""kvmtest/commands/apart.py: one item's end is no other's."""

import os
import signal

import pytest

from kvmtest.commands import apart as module
from kvmtest.commands.apart import MEMORY_MIB, apart
from kvmtest.errors import UsageError


def failed(item: int, why: str) -> str:
    return f"{item}: {why}"


def test_results_come_in_the_order_of_items_however_many() -> None:
    assert apart(str, range(250), failed) == [str(number) for number in range(250)]
    assert apart(str, [], failed) == []


def test_each_item_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 4)

    def do(item: int) -> str:
        if item == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 5:
            raise UsageError("not this one")
        if item == 9:
            return str(len(bytearray(2 * MEMORY_MIB << 20)))
        return str(item)

    found = apart(do, range(12), failed)
    assert found[2].startswith("2: its process was killed by SIGKILL")
    assert found[5] == "5: not this one"
    assert found[9] == f"9: it needs more than {MEMORY_MIB} MiB of memory"
    others = [each for each in range(12) if each not in (2, 5, 9)]
    assert [found[each] for each in others] == [str(each) for each in others]


def test_this_process_keeps_its_own_bounds() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    apart(str, range(3), failed)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
