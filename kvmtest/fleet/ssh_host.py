"""Hosts by SSH
============

A machine of a plan that needs no coordinator: it is there for whoever has a key.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .boot import Way
from .openssh import OpenSsh
from .plan import SshHost
from .shell_host import ShellHost

__all__ = ["opened"]

OnText = Callable[[str], None]


@contextmanager
def opened(
    name: str,
    reach: SshHost,
    boot: str,
    show: OnText,
    *,
    owner: str = "",
    ssh_config: Path | None = None,
) -> Iterator[ShellHost]:
    """Give the host that a plan calls ``name``; ``boot`` is the way of booting to try first.

    ``owner`` names who has the host, the same after a kill (kvmtest.fleet.shell_host.ShellHost).
    ``ssh_config`` is the one file of ssh_config(5) that is read, if given. Raises UsageError where
    the plan's address is none.
    """
    shell = OpenSsh(reach.address, reach.port, config=ssh_config, label=name)
    yield ShellHost(name, shell, show, first=Way(boot), owner=owner)
