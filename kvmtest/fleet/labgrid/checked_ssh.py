"""SSH that checks host keys
=========================

labgrid's SSHDriver believes any host key; this one believes those in known_hosts alone. It also
gives the shell by which kvmtest's own work is done, over connections of its own.
"""

import os
from pathlib import Path

import attr
from labgrid import target_factory
from labgrid.driver import SSHDriver
from labgrid.util.proxy import proxymanager

from kvmtest.fleet.openssh import OpenSsh, believing

__all__ = ["CheckedSSHDriver", "shell_of"]


@target_factory.reg_driver
@attr.s(eq=False)
class CheckedSSHDriver(SSHDriver):
    """An SSHDriver; ``known_hosts`` is its one file of host keys, or "" for the user's own."""

    known_hosts: str = attr.ib(default="", validator=attr.validators.instance_of(str))

    @property
    def known_hosts_file(self) -> Path | None:
        """The file; a relative name is relative to the environment file."""
        return self._resolved(self.known_hosts)

    @property
    def shell(self) -> OpenSsh:
        """A shell on the host (kvmtest.fleet.shell.Shell), whether this driver is active or not."""
        return shell_of(
            self.networkservice,
            user=self._get_username(),
            known_hosts=self.known_hosts_file,
            identity=self._resolved(self.keyfile),
        )

    def _resolved(self, name: str) -> Path | None:
        if not name:
            return None
        env = self.target.env
        return Path(env.config.resolve_path(name) if env else os.path.abspath(name))  # noqa: PTH100

    def _start_own_master(self) -> str:
        # ssh(1) takes the first value of an option: labgrid's own come later, and allow any key.
        users_own = ["UserKnownHostsFile=~/.ssh/known_hosts"]
        file = self.known_hosts_file
        options = ["StrictHostKeyChecking=yes", *(believing(file) if file else users_own)]
        checks = [word for option in options for word in ("-o", option)]
        self.ssh_prefix: list[str] = [*checks, *self.ssh_prefix]
        return str(super()._start_own_master())


def shell_of(
    service: object,
    *,
    user: str = "",
    label: str = "",
    config: Path | None = None,
    known_hosts: Path | None = None,
    identity: Path | None = None,
) -> OpenSsh:
    """Return a shell on the host of a labgrid NetworkService, through its exporter's proxy if any.

    ``user`` is used instead of the service's; messages call the host ``label``. Raises UsageError
    where the address is none.
    """
    address = getattr(service, "address", "")
    port = getattr(service, "port", None)
    proxy = proxymanager.get_command(service, address, port)
    options = [f"ProxyCommand={' '.join(proxy)}"] if proxy else []
    user = user or getattr(service, "username", "")
    host = f"{user}@{address}" if user else address
    return OpenSsh(
        host,
        # As ssh_config says of that host where the exporter says nothing else.
        None if port == 22 else port,
        config=config,
        known_hosts=known_hosts,
        identity=identity,
        options=options,
        label=label,
    )
