"""Module parameters in a lab's machine
====================================

KVM's modules are reloaded in a machine that has booted, with the parameters that a user asks for.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kvmtest.errors import UsageError
from kvmtest.lab.image.contents import MODULE_ARGUMENTS

__all__ = ["Parameter", "Parameters"]

OPTION = "--kvm-parameter"
_WRITTEN = re.compile(r"(?P<module>\w+)\.(?P<name>\w+)=(?P<value>[\w,-]+)", re.ASCII)
#: A switch's value, and how the kernel shows it (kernel/params.c, param_get_bool and _int).
_SHOWN = {"1": "Y|1", "y": "Y", "Y": "Y", "0": "N|0", "n": "N", "N": "N"}
#: A job's shell script; arguments: module, parameter, the values that it may show with | between.
_SCRIPT = "has-parameter"
_TEXT = b"""\
shown=$(cat "${SYSFS:-/sys}/module/$1/parameters/$2" 2>/dev/null) || shown=unknown
case "|$3|" in *"|$shown|"*) ;; *)
	echo "$1.$2 is $shown: this kernel, or this machine, does not take that value" >&2; exit 1 ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a module, as modprobe and the kernel's command line take it."""

    module: str
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}={self.value}"

    @property
    def check(self) -> list[str]:
        """The command that runs the script; it fails where the module shows another value.

        The kernel ignores an unknown parameter, and KVM clears one that the CPU does not support.
        """
        return ["sh", _SCRIPT, self.module, self.name, _SHOWN.get(self.value, self.value)]


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of KVM's modules in a machine whose vendor module is ``vendor``."""

    vendor: str
    wanted: tuple[Parameter, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str], vendor: str) -> "Parameters":
        """Parse texts, each MODULE.NAME=VALUE; raises UsageError."""
        return cls(vendor, tuple(_parsed(text, vendor) for text in texts))

    @property
    def files(self) -> dict[str, bytes]:
        """The files that the commands need beside them."""
        return {_SCRIPT: _TEXT} if self.wanted else {}

    @property
    def commands(self) -> list[list[str]]:
        """Commands that reload KVM's modules, and fail where a parameter has no effect."""
        if not self.wanted:
            return []
        settings = {
            module: [f"{p.name}={p.value}" for p in self.wanted if p.module == module]
            for module in ("kvm", self.vendor)
        }
        reload_kvm = [["rmmod", "kvm"], ["modprobe", "kvm", *settings["kvm"]]]
        own = MODULE_ARGUMENTS.get(self.vendor, ())
        return [
            ["rmmod", self.vendor],
            *(reload_kvm if settings["kvm"] else []),
            ["modprobe", self.vendor, *own, *settings[self.vendor]],
            *(parameter.check for parameter in self.wanted),
        ]

    def __str__(self) -> str:
        return " ".join(map(str, self.wanted))


def _parsed(text: str, vendor: str) -> Parameter:
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise UsageError(f"{OPTION} {text}: write it as {vendor}.NAME=VALUE")
    parameter = Parameter(**written.groupdict())
    if parameter.module not in ("kvm", vendor):
        raise UsageError(f"{OPTION} {text}: this machine's modules are kvm and {vendor}")
    return parameter
