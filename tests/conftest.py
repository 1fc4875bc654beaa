"""Where tests run: in which order, and which of them share a worker of pytest-xdist."""

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

#: The folders of tests/ in the order in which they start. The lab takes one worker longest, and the
#: fleet's tests wait for hosts: another worker has work meanwhile.
ORDER = ("lab", "fleet", "unit", "kvm", "e2e")

#: Files whose tests need the same thing, which is there once: they run in turn, on one worker.
IN_TURN = {
    "the lab's emulators": (
        "lab/test_lab_run.py",
        "lab/test_bisect.py",
        "lab/test_amd_lab.py",
        "lab/test_mediated_lab.py",
        "lab/test_stock_bochs.py",
        "fleet/test_reboot.py",
    ),
    "the machine's lock": (
        "e2e/test_run.py",
        "e2e/test_bad_input.py",
        "e2e/test_plugin.py",
        "e2e/test_front_ends.py",
        "kvm/test_watch.py",
    ),
}
_GROUPS = {f"tests/{file}": name for name, files in IN_TURN.items() for file in files}


def pytest_configure() -> None:
    """Let SIGINT be what it is in a terminal: children inherit that it is ignored.

    Tests interrupt what they start, also where a shell began them in the background.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the folders into their order, where more than one worker takes from it."""
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder = item.nodeid.removeprefix("tests/").partition("/")[0]
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadScopeScheduling | None":
    """Give each worker whole files, in order, and those of one group to the same worker."""
    from xdist.scheduler import LoadFileScheduling

    class InTurn(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return _GROUPS.get(file, file)

    return InTurn(config, log) if config.getoption("dist") == "loadfile" else None
