"""The hosts of a plan
===================

Opens a host in the way in which its plan reaches it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from kvmtest.optional_libraries import library

from .drive import Opening
from .host import Host
from .plan import LabMachine, Place, Plan, Reservation, SshHost
from .tasks import Lane

__all__ = ["opening"]

OnText = Callable[[str], None]


def opening(plan: Plan, lane: Lane, show: OnText, *, token: str = "") -> Opening:
    """Return what opens the host of a lane; ``show`` gets lines of text about what it does.

    ``token`` is the fleet's: whoever has a host is named by it, the same after a kill.
    """

    def opened() -> AbstractContextManager[Host]:
        host = lane.host
        owner = f"{token}.{host.name}"
        match host.reach:
            case LabMachine() as machine:
                from . import lab_host

                return lab_host.opened(host.name, machine, show, once=len(lane.tasks) == 1)
            case SshHost() as reach:
                from . import ssh_host

                return ssh_host.opened(
                    host.name, reach, host.boot, show, owner=owner, ssh_config=plan.ssh_config
                )
            case Place() | Reservation():
                library("labgrid", f"{host.name}, a place of labgrid's coordinator,", "fleet")
                from .labgrid import place_host

                return place_host.opened(
                    host, owner, show, coordinator=plan.coordinator, ssh_config=plan.ssh_config
                )

    return opened
