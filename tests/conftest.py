"""Where tests run: in which order, and which of them share a worker of pytest-xdist."""

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling
    from xdist.workermanage import WorkerController

#: The folders of tests/ in the order in which they start; each worker begins with one of its own.
#: The lab's take longest, the fleet's wait for hosts, and the unit tests soon show what is broken.
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
    folder = _folder(item.nodeid)
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


def _folder(nodeid: str) -> str:
    return nodeid.removeprefix("tests/").partition("/")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadScopeScheduling | None":
    """Give each worker whole files of a folder that no other has, else those that come next.

    The files of a group go to the same worker.
    """
    from xdist.scheduler import LoadFileScheduling

    class InTurn(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return _GROUPS.get(file, file)

        def _assign_work_unit(self, node: "WorkerController") -> None:
            others = [work for other, work in self.assigned_work.items() if other is not node]
            taken = {
                _folder(nodeid)
                for work in others
                for unit in work.values()
                for nodeid, is_done in unit.items()
                if not is_done
            }
            queue = self.workqueue.items()
            free = (file for file, unit in queue if _folder(next(iter(unit))) not in taken)
            if file := next(free, None):
                self.workqueue.move_to_end(file, last=False)
            super()._assign_work_unit(node)

    return InTurn(config, log) if config.getoption("dist") == "loadfile" else None
