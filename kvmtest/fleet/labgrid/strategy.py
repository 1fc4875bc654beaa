"""States of a host
================

A labgrid strategy by which tests have a host boot a kernel, measured by kvmtest, and put back:

    drivers:
      - ExternalPowerDriver: {cmd_on: …, cmd_off: …}
      - CheckedSSHDriver: {known_hosts: known_hosts}
      - KernelStrategy: {kernel: "6.12"}
"""

import enum
import shlex
from pathlib import Path
from typing import Any

import attr
from labgrid import step, target_factory
from labgrid.protocol import PowerProtocol
from labgrid.strategy import Strategy, StrategyError, never_retry

from kvmtest.errors import UsageError
from kvmtest.fleet.boot import Way
from kvmtest.fleet.host import KernelKind, PlannedKernel
from kvmtest.fleet.shell_host import ShellHost
from kvmtest.target import DEADLINE, Job, Outcome

from .checked_ssh import CheckedSSHDriver

__all__ = ["KernelStrategy", "Status"]


class Status(enum.Enum):
    """The states of a host."""

    unknown = 0
    off = 1
    """It has no power; what was brought to it is removed before."""

    own = 2
    """It runs the kernel that it boots by default."""

    kernel = 3
    """It runs the strategy's kernel."""

    measured = 4
    """kvmtest has run on the strategy's kernel, and its outcome is here."""

    restored = 5
    """It runs its own kernel, and all that kvmtest brought is gone."""


@target_factory.reg_driver
@attr.s(eq=False)
class KernelStrategy(Strategy):
    """Brings a host into a state of Status.

    Its SSH driver is active in all states but off and unknown, and inactive while the host boots.
    """

    bindings = {"power": PowerProtocol, "ssh": CheckedSSHDriver}  # noqa: RUF012

    kernel: str = attr.ib(default="", validator=attr.validators.instance_of(str))
    """A version in Debian's archive, .deb files, a kernel build tree, or "" for the own kernel.

    Several files are separated as a shell does it, and relative to the environment file.
    """

    options: str = attr.ib(default="", validator=attr.validators.instance_of(str))
    """Those of ``kvmtest run``, as a shell takes them."""

    deadline: float = attr.ib(default=DEADLINE, converter=float)
    """Seconds that a run may take."""

    boot_deadline: float = attr.ib(default=DEADLINE, converter=float)
    """Seconds that a boot may take, and putting the host back."""

    boot: str = attr.ib(default=Way.GRUB.value, validator=attr.validators.in_(list(map(str, Way))))
    """How the host boots a kernel once, if it can: ``grub`` or ``kexec``."""

    status: Status = attr.ib(default=Status.unknown, validator=attr.validators.instance_of(Status))
    outcome: Outcome | None = attr.ib(default=None, init=False)
    """What the run left that led to ``measured``."""

    _is_changed: bool = attr.ib(default=False, init=False)

    @never_retry
    @step(args=["status"])
    def transition(self, status: "Status | str", *, words: "list[str] | None" = None) -> None:
        """Bring the host into a state, by those before it.

        ``words`` are options of ``kvmtest run`` besides those of the strategy. Raises StrategyError
        with the KvmtestError that was in the way.
        """
        wanted = Status[status] if isinstance(status, str) else status
        if wanted is Status.unknown:
            raise StrategyError(f"can't transition to {wanted.name}")
        if wanted is not Status.measured and wanted is self.status:
            return
        # Until it is there, nothing is known.
        before, self.status = self.status, Status.unknown
        getattr(self, f"_to_{wanted.name}")(before, words or [])
        self.status = wanted

    def force(self, status: "Status | str") -> None:
        """Believe the host to be in a state."""
        self.status = Status[status] if isinstance(status, str) else status
        if self.status not in (Status.unknown, Status.off):
            self.target.activate(self.ssh)

    def put_back(self) -> None:
        """Restore a host that was changed, also where a transition failed. Raises KvmtestError."""
        if self._is_changed:
            self._to_restored(self.status, [])
            self.status = Status.restored

    def _to_off(self, before: Status, words: list[str]) -> None:
        if self._is_changed:
            self._to_restored(before, words)
        self.target.deactivate(self.ssh)
        self._powered().off()

    def _to_own(self, before: Status, words: list[str]) -> None:
        self._boot(PlannedKernel("own"), before)

    def _to_kernel(self, before: Status, words: list[str]) -> None:
        self._is_changed = True
        self._boot(self.planned, before)

    def _to_measured(self, before: Status, words: list[str]) -> None:
        if before not in (Status.kernel, Status.measured):
            self._to_kernel(before, words)
        job = Job([*shlex.split(self.options), *words], deadline=self.deadline)
        self.outcome = self._booted.run(job)

    def _to_restored(self, before: Status, words: list[str]) -> None:
        if before is Status.off:
            self._powered().on()
        self.target.deactivate(self.ssh)
        self.host.restore(self.boot_deadline)
        self._is_changed = False
        self.target.activate(self.ssh)

    def _boot(self, kernel: PlannedKernel, before: Status) -> None:
        # Its connection would not outlive the reboot, and it makes no new one by itself.
        self.target.deactivate(self.ssh)
        if before in (Status.off, Status.unknown):
            self._powered().on()
        self._booted = self.host.boot(kernel, self.boot_deadline)
        self.target.activate(self.ssh)

    @property
    def planned(self) -> PlannedKernel:
        """The strategy's kernel, not yet found. Raises UsageError where it is none."""
        names = shlex.split(self.kernel)
        if not names:
            return PlannedKernel("own")
        env = self.target.env
        paths = [Path(env.config.resolve_path(name) if env else name) for name in names]
        if all(path.suffix == ".deb" for path in paths):
            return PlannedKernel("kernel", KernelKind.DEB, paths=paths)
        if len(names) > 1:
            raise UsageError(f"{self.kernel}: several kernels; of one kernel name its .deb files")
        if paths[0].is_dir():
            return PlannedKernel("kernel", KernelKind.TREE, paths=paths)
        return PlannedKernel("kernel", KernelKind.DEBIAN, version=names[0])

    def _powered(self) -> Any:
        self.target.activate(self.power)
        return self.power

    @property
    def host(self) -> ShellHost:
        """The host, whose SSH driver is to be inactive while it boots."""
        return ShellHost(
            self.target.name,
            self.ssh.shell,
            self.logger.info,
            self._powered(),
            first=Way(self.boot),
        )
