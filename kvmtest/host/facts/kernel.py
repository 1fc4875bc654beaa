"""The running kernel
==================

What the kernel says of itself: release, version string, configuration, and what its BTF shows of
KVM's host-owned DEBUGCTL code. Observations only; what they mean is decided in ``kvmtest.judge``.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache

from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.modules import Place, how_to_load, whereabouts
from kvmtest.host.tree import Tree
from kvmtest.kernels import banner, configuration
from kvmtest.kernels.btf import Btf, BtfError
from kvmtest.kernels.fix import FixPresence, observe_fix, with_vendor_module
from kvmtest.missing import Missing

__all__ = [
    "Config",
    "FoundBtf",
    "Kernel",
    "fix_presence",
    "module_btf",
    "read_config",
    "vmlinux_btf",
]

_CONFIG_FILES = (
    "/proc/config.gz",
    "/boot/config-{release}",
    "/lib/modules/{release}/config",
    "/lib/modules/{release}/build/.config",
)
_VMLINUX = "/sys/kernel/btf/vmlinux"
_NEEDS_BTF = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"

_BTF_FOLDER = "/sys/kernel/btf"
_VENDOR_MODULES = {"vmx": "kvm_intel", "svm": "kvm_amd"}


@dataclass(frozen=True, slots=True)
class Config:
    """The kernel's build configuration: options by name without ``CONFIG_``, and its file."""

    values: Mapping[str, str] = field(repr=False)
    source: str

    def get(self, option: str) -> str | None:
        """Return ``y``, ``m``, a number or a string without its quotes; None where not set."""
        return self.values.get(option.removeprefix("CONFIG_"))


@dataclass(frozen=True, slots=True)
class Kernel:
    """Names, dates and options of the running kernel."""

    release: str
    """As ``uname -r`` gives it."""

    version_string: str
    """The line of /proc/version."""

    version: tuple[int, int, int] | None
    """The upstream version it was built from, where Debian or Ubuntu give it apart from the
    release (6.1.0-37-amd64 is built from 6.1.140); else the release's numbers. A release
    candidate has the numbers of its release. None where the release begins with no number."""

    compiler: str | None
    """None where the version string names none."""

    build_date: str | None
    """As the version string has it; None where the build left it out."""

    configuration: Config | Missing

    @classmethod
    def of(cls, tree: Tree) -> "Kernel | Missing":
        """Read the facts of the kernel that runs the machine."""
        version_string = tree.read("/proc/version") or ""
        release = tree.read("/proc/sys/kernel/osrelease") or banner.release(version_string)
        signature = tree.read("/proc/version_signature") or ""
        if not release:
            return Missing(
                "the kernel's release can't be read (/proc/sys/kernel/osrelease, /proc/version)",
                "mount procfs on /proc",
            )
        return cls(
            release,
            version_string,
            banner.upstream_version(release, version_string, signature),
            banner.compiler(version_string),
            banner.build_date(version_string),
            read_config(tree, release),
        )

    def config(self, option: str) -> str | Missing | None:
        """Return the option's value, e.g. of ``KVM_INTEL``; None where it is not set."""
        if isinstance(self.configuration, Missing):
            return self.configuration
        return self.configuration.get(option)


@dataclass(frozen=True, slots=True)
class FoundBtf:
    """BTF that describes one module, built in or loaded, and the files it comes from."""

    btf: Btf = field(repr=False, compare=False)
    where: str


def read_config(tree: Tree, release: str) -> Config | Missing:
    """Read the kernel's configuration from the first place that has it."""
    places = [place.format(release=release) for place in _CONFIG_FILES]
    for place in places:
        text = _config_text(tree.read_bytes(place), packed=place.endswith(".gz"))
        values = configuration.parse(text)
        if values:
            return Config(values, place)
    unreadable = [place for place in places if tree.exists(place)]
    if unreadable:
        return Missing(
            f"the kernel's configuration can't be read from {', '.join(unreadable)}",
            f"make {unreadable[0]} a readable, intact file",
        )
    return Missing(
        f"the configuration of kernel {release} is in none of {', '.join(places)}",
        f"copy the kernel's .config to {places[1]}",
    )


def vmlinux_btf(tree: Tree) -> Btf | Missing:
    """Return the BTF of the kernel image; the running kernel's is read once in a process."""
    return _running_vmlinux_btf(tree) if tree.is_live else _read_vmlinux_btf(tree)


def _read_vmlinux_btf(tree: Tree) -> Btf | Missing:
    data = tree.read_bytes(_VMLINUX)
    if data is None:
        return _no_vmlinux_btf(tree)
    try:
        return Btf(data)
    except BtfError as error:
        return _corrupt(_VMLINUX, error)


_running_vmlinux_btf = cache(_read_vmlinux_btf)


@lru_cache(maxsize=4)
def _module_btf(data: bytes, base: Btf) -> Btf:
    """Parse split BTF; a reloaded module mostly has the same types."""
    return Btf(data, base, own_first=True)


def module_btf(tree: Tree, module: str, vmlinux: Btf | Missing | None = None) -> FoundBtf | Missing:
    """Return the BTF that describes ``module``, whether it is loaded or built in.

    Pass ``vmlinux``, that of the kernel image, where it is already known.

    A module's own types are split BTF over vmlinux (CONFIG_DEBUG_INFO_BTF_MODULES); those of a
    built-in one are in vmlinux. Where both define a type, lookups give the module's definition.
    """
    split = f"{_BTF_FOLDER}/{module}"
    is_split = tree.exists(split)
    absent = None if is_split else _no_module(tree, module)
    base = absent or vmlinux or vmlinux_btf(tree)
    if isinstance(base, Missing):
        return base
    if not is_split:
        return FoundBtf(base, _VMLINUX)
    data = tree.read_bytes(split)
    if data is None:
        return Missing(f"{split} can't be read", "run as root")
    try:
        return FoundBtf(_module_btf(data, base), f"{split} over {_VMLINUX}")
    except BtfError as error:
        return _corrupt(split, error)


def fix_presence(tree: Tree, vmlinux: Btf | Missing | None = None) -> FixPresence | Missing:
    """Observe in the running kernel's BTF whether KVM has the host-owned DEBUGCTL code.

    Pass ``vmlinux``, the BTF of the kernel image, where it is already known.
    """
    found = module_btf(tree, "kvm", vmlinux)
    if isinstance(found, Missing):
        return found
    try:
        fix = _observed_fix(found.btf, found.where)
    except BtfError as error:
        return _corrupt(found.where, error)
    for vendor, btf in _vendor_btfs(tree, vmlinux):
        with suppress(BtfError):
            fix = with_vendor_module(fix, vendor, btf, f"{_BTF_FOLDER}/{vendor}")
    return fix


def _vendor_btfs(tree: Tree, vmlinux: Btf | Missing | None) -> Iterator[tuple[str, Btf]]:
    """Yield name and BTF of each loaded vendor module whose BTF can be read."""
    for path in tree.glob(f"{_BTF_FOLDER}/kvm_*"):
        found = module_btf(tree, path.name, vmlinux)
        if not isinstance(found, Missing):
            yield path.name, found.btf


# Cached like the BTF itself: a reloaded module mostly has the same.
_observed_fix = lru_cache(maxsize=4)(observe_fix)


def _config_text(data: bytes | None, *, packed: bool) -> str:
    if not data:
        return ""
    return configuration.gunzipped(data) if packed else data.decode(errors="replace")


def _no_vmlinux_btf(tree: Tree) -> Missing:
    if tree.exists(_VMLINUX):
        return Missing(f"{_VMLINUX} can't be read", "run as root")
    kernel = Kernel.of(tree)
    built_with = kernel if isinstance(kernel, Missing) else kernel.config("DEBUG_INFO_BTF")
    if built_with is None:
        return Missing("this kernel is built without CONFIG_DEBUG_INFO_BTF", _NEEDS_BTF)
    if built_with == "y":
        return Missing(
            f"{_VMLINUX} is absent although the kernel is built with CONFIG_DEBUG_INFO_BTF",
            "mount sysfs on /sys, outside any container that hides it",
        )
    return Missing(f"this kernel shows no BTF ({_VMLINUX} is absent)", _NEEDS_BTF)


def _no_module(tree: Tree, module: str) -> Missing | None:
    """Say why vmlinux does not describe ``module``, or return None where it is built in."""
    # Only loaded modules have this file; built-in ones have just their parameters.
    if tree.exists(f"/sys/module/{module}/initstate"):
        return Missing(
            f"module {module} is loaded and has no BTF (/sys/kernel/btf/{module} is absent)",
            "load modules of a kernel with CONFIG_DEBUG_INFO_BTF_MODULES=y; those that are built "
            "without its vmlinux beside them have no BTF",
        )
    if tree.exists(f"/sys/module/{module}"):
        return None
    option = module.upper()
    kernel = Kernel.of(tree)
    linkage = kernel if isinstance(kernel, Missing) else kernel.config(option)
    if linkage == "y":
        return None
    if linkage is None:
        return Missing(
            f"this kernel is built without CONFIG_{option}",
            f"boot a kernel built with CONFIG_{option}",
        )
    if whereabouts(tree, module) is Place.NOT_SHIPPED:
        return Missing(
            f"this kernel has no module {module}, built in or installed",
            f"boot a kernel with CONFIG_{option} or install its modules",
        )
    return Missing(
        f"module {module} is not loaded, so that no BTF describes it",
        how_to_load(tree, _loads(tree, module)),
    )


def _loads(tree: Tree, module: str) -> str:
    """Return how to load ``module``; for kvm, by the vendor module of this CPU, if any."""
    cpu = Cpu.of(tree)
    flags = frozenset() if isinstance(cpu, Missing) else cpu.features
    vendors = (vendor for flag, vendor in _VENDOR_MODULES.items() if flag in flags)
    return next(vendors, module) if module == "kvm" else module


def _corrupt(where: str, error: BtfError) -> Missing:
    return Missing(
        f"the BTF in {where} can't be understood ({error})",
        f"compare with: bpftool btf dump file {where.split()[0]}",
    )
