"""The hosts of a plan
===================

Opens a host in the way in which its plan reaches it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from kvmtest.errors import EnvironmentUnfit

from .drive import Opening
from .host import Host
from .plan import LabMachine, Plan
from .tasks import Lane

__all__ = ["opening"]

OnText = Callable[[str], None]


def opening(plan: Plan, lane: Lane, show: OnText) -> Opening:
    """Return what opens the host of a lane; ``show`` gets lines of text about what it does."""

    def opened() -> AbstractContextManager[Host]:
        host = lane.host
        match host.reach:
            case LabMachine() as machine:
                from .lab_host import opened

                return opened(host.name, machine, show, once=len(lane.tasks) == 1)
        raise EnvironmentUnfit(f"{host.name}: this kvmtest reaches lab machines alone")

    return opened
