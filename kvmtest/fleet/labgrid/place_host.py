"""Hosts at places
===============

A host that labgrid's coordinator lends: its exporter says at which address it is, and which port
of which power switch is its own.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labgrid import Target, target_factory

from kvmtest.errors import EnvironmentUnfit
from kvmtest.fleet.boot import Way
from kvmtest.fleet.host import PlannedKernel
from kvmtest.fleet.plan import Place, PlannedHost, Reservation
from kvmtest.fleet.shell_host import BootedHost, ShellHost

from .checked_ssh import shell_of
from .places import DEFAULT_ADDRESS, HeldPlace, Places

__all__ = ["PlaceHost", "PowerPorts", "opened"]

#: Seconds that a plan waits for a place which somebody else has.
WAIT_S = 24 * 3600.0

# The resources that switch the power of servers, and the drivers that know them.
_POWER = {"NetworkPowerPort": "NetworkPowerDriver", "PDUDaemonPort": "PDUDaemonDriver"}
# Seconds that a power supply takes to run down.
_OFF_S = 5.0

OnText = Callable[[str], None]


@contextmanager
def opened(
    planned: PlannedHost,
    owner: str,
    show: OnText,
    *,
    coordinator: str = "",
    ssh_config: Path | None = None,
    wait: float = WAIT_S,
) -> Iterator["PlaceHost"]:
    """Give the host of a place or reservation; the place is released at the end.

    ``owner`` names who asks, the same after a kill. ``coordinator`` is HOST:PORT; "" leaves it to
    LG_COORDINATOR. Waits ``wait`` seconds for whoever has the place. Raises UsageError and
    EnvironmentUnfit where there is none to be had.
    """
    address = coordinator or os.environ.get("LG_COORDINATOR") or DEFAULT_ADDRESS
    places = Places(address, owner, show)
    match planned.reach:
        case Place(name):
            held = places.acquire(name, wait)
        case Reservation(tags):
            held = places.reserve(tags, wait)
        case reach:
            raise TypeError(f"{reach} is no place")
    try:
        target = _target(held)
        service = _service(target, held)
        shell = shell_of(service, label=planned.name, config=ssh_config)
        power = PowerPorts.of(target, held)
        # The coordinator may forget who had what; the host does not.
        host = ShellHost(planned.name, shell, show, power, Way(planned.boot), owner)
        yield PlaceHost(host, places, held)
    finally:
        places.release(held)


@dataclass(frozen=True)
class PlaceHost:
    """A host (kvmtest.fleet.host.Host) that is ours as long as its place is."""

    host: ShellHost
    places: Places
    held: HeldPlace

    @property
    def name(self) -> str:
        """Its name in the plan."""
        return self.host.name

    def boot(self, kernel: PlannedKernel, deadline: float) -> BootedHost:
        """Boot a kernel (kvmtest.fleet.host.Host)."""
        self.places.hold(self.held)
        return self.host.boot(kernel, deadline)

    def restore(self, deadline: float) -> None:
        """Leave the host as it was found (kvmtest.fleet.host.Host)."""
        self.places.hold(self.held)
        self.host.restore(deadline)


@dataclass(frozen=True)
class PowerPorts:
    """The ports of one host, whose power supplies may be several (kvmtest.fleet.boot.Power)."""

    drivers: Sequence[Any]

    @classmethod
    def of(cls, target: Target, held: HeldPlace) -> "PowerPorts | None":
        """Return those that are exported at a place; None where there are none."""
        drivers = []
        for resource in held.resources:
            if resource.kind in _POWER:
                target.set_binding_map({"port": resource.name})
                kind = target_factory.class_from_string(_POWER[resource.kind])
                driver = kind(target, name=resource.name)
                target.activate(driver)
                drivers.append(driver)
        return cls(drivers) if drivers else None

    def cycle(self) -> None:
        """Take the power from all ports, and give it back."""
        try:
            for driver in self.drivers:
                driver.off()
            time.sleep(_OFF_S)
            for driver in self.drivers:
                driver.on()
        except Exception as error:  # each switch has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise EnvironmentUnfit(f"the power can't be switched: {reason}") from None


def _target(held: HeldPlace) -> Target:
    """Return a labgrid target of what is exported, as it is now."""
    target = Target(held.name)
    for each in held.resources:
        made = target_factory.make_resource(target, each.kind, each.name, dict(each.arguments))
        made.extra = dict(each.extra)
        made.avail = True
    return target


def _service(target: Target, held: HeldPlace) -> object:
    services = [each for each in held.resources if each.kind == "NetworkService"]
    if len(services) != 1:
        raise EnvironmentUnfit(
            f"{held.name}: {len(services)} resources NetworkService are exported there, and one is "
            "wanted; correct the place's matches, or start its exporter"
        )
    return target.get_resource("NetworkService", wait_avail=False)
