"""Work on many files, apart
=========================

Does the same with many files in processes of their own, several at a time. The files may come from
hosts that nobody trusts: what one of them does to its reader, no other feels.
"""

import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kvmtest import parallel
from kvmtest.errors import KvmtestError
from kvmtest.parallel import Ended, Task

__all__ = ["MEMORY_MIB", "Silent", "apart", "of_file"]

#: What a process may need beyond what it begins with: 32 MiB of evidence may become a GiB.
MEMORY_MIB = 256
#: How many files a process works on.
_BATCH = 100

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


def apart(do: Callable[[I], R], items: Sequence[I], failed: Callable[[I, str], R]) -> list[R]:
    """Return what ``do`` makes of each item, in their order; results are pickled.

    Where ``do`` raises KvmtestError, needs too much memory, or ends its process, the result is
    ``failed`` of the item and of what happened.
    """
    results: list[R] = []
    batches = [items[at : at + _BATCH] for at in range(0, len(items), _BATCH)]
    for batch, ended in zip(batches, _ended(do, batches, failed), strict=True):
        if ended.result is not None:
            results += ended.result
        elif len(batch) == 1:
            results.append(failed(batch[0], ended.failure))
        else:
            # One of them ended the process of all.
            alone = [[item] for item in batch]
            results += [
                one.result[0] if one.result else failed(item, one.failure)
                for (item,), one in zip(alone, _ended(do, alone, failed), strict=True)
            ]
    return results


def of_file(file: Path, why: str) -> str:
    """Return what happened to a file, by its name: most errors have it, a reader's death not."""
    return why if str(file) in why else f"{file}: {why}"


def _ended(
    do: Callable[[I], R], batches: Sequence[Sequence[I]], failed: Callable[[I, str], R]
) -> list[Ended[list[R]]]:
    tasks = [Task(str(number), _work(do, batch, failed)) for number, batch in enumerate(batches)]
    return parallel.run(tasks, parallel.jobs_that_fit(MEMORY_MIB), Silent())


def _work(
    do: Callable[[I], R], batch: Sequence[I], failed: Callable[[I, str], R]
) -> Callable[[Any], list[R]]:
    def work(_: object) -> list[R]:
        _bound_memory()
        return list(_each())

    def _each() -> Iterator[R]:
        for item in batch:
            try:
                yield do(item)
            except KvmtestError as error:
                yield failed(item, str(error))
            except MemoryError:
                yield failed(item, f"it needs more than {MEMORY_MIB} MiB of memory")

    return work


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (MEMORY_MIB << 20)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


class Silent:
    """Shows nothing (kvmtest.parallel.Audience)."""

    def began(self, name: str) -> None:
        """Show nothing."""

    def said(self, name: str, text: str) -> None:
        """Show nothing."""

    def ended(self, ended: Ended[Any]) -> None:
        """Show nothing."""

    def tick(self) -> None:
        """Show nothing."""

    def interrupted(self) -> None:
        """Show nothing."""
