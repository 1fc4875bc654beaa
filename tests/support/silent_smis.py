"""SMIs that never come, for watchers whose windows alone are looked at."""

from collections.abc import Iterator
from contextlib import contextmanager

from kvmtest.checks.leaks.smis import Smis
from kvmtest.smi import Periodic


class NoCount:
    """A count of SMIs that never come."""

    name = "nothing"
    is_since_reset = False

    def __init__(self, cpus: tuple[int, ...]) -> None:
        self.cpus = cpus

    def read(self, cpu: int) -> int:
        return 0

    def read_all(self) -> dict[int, int]:
        return dict.fromkeys(self.cpus, 0)

    def increase(self, before: int, after: int) -> int:
        return after - before

    def close(self) -> None:
        pass


@contextmanager
def _silent(_: float, __: bool) -> Iterator[None]:
    yield None


def silent_smis(cpus: tuple[int, ...], rate_hz: float) -> Smis:
    """Return the SMIs of a source that raises none, with windows as for that rate."""
    source = Periodic("none", "raises none", "nothing", 10_000, _silent)
    return Smis(source, NoCount(cpus), rate_hz, cpus)
