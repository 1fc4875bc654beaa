"""The running kernel
==================

What the kernel says of itself: release, version string, configuration, and what its BTF shows of
KVM's host-owned DEBUGCTL code. Observations only; what they mean is decided in ``kvmtest.judge``.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

from kvmtest.host.facts.cpu import Cpu
from kvmtest.host.facts.modules import Place, how_to_load, whereabouts
from kvmtest.host.tree import Tree
from kvmtest.kernels.btf import Btf, BtfError, Struct
from kvmtest.missing import Missing

__all__ = [
    "Config",
    "FixPresence",
    "FoundBtf",
    "Kernel",
    "OpsCopies",
    "build_date",
    "fix_presence",
    "module_btf",
    "observe_fix",
    "parse_config",
    "read_config",
    "upstream_version",
    "vmlinux_btf",
]

_CONFIG_FILES = (
    "/proc/config.gz",
    "/boot/config-{release}",
    "/lib/modules/{release}/config",
    "/lib/modules/{release}/build/.config",
)
_GZIP = 16 + zlib.MAX_WBITS

# A build's date as Debian and Proxmox write it, as date(1) and as date --rfc-email (Arch) do.
_DATE = re.compile(
    r"\b\d{4}-\d\d-\d\d(?!\d)"
    r"|\b[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d (?:\S+ )?\d{4}\b"
    r"|\b[A-Z][a-z]{2}, +\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\b",
    re.ASCII,
)

_VMLINUX = "/sys/kernel/btf/vmlinux"
_NEEDS_BTF = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"

# One of these is in struct kvm_x86_ops of every kernel, by age: BTF of KVM must show it.
_CONTROL_MEMBERS = ("vcpu_run", "run")

# KVM's own functions (virt/kvm/kvm_main.c, arch/x86/kvm/x86.c), in kvm.ko or a kernel with KVM
# built in. A kernel without KVM has struct kvm_x86_ops all the same: headers bring it in.
_KVM_FUNCTIONS = ("kvm_vcpu_ioctl", "kvm_arch_vcpu_ioctl_run")

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
    """None where the version string has none."""

    build_date: str | None
    """As the version string has it; None where the build left it out."""

    configuration: Config | Missing

    @classmethod
    def of(cls, tree: Tree) -> "Kernel | Missing":
        """Read the facts of the kernel that runs the machine."""
        version_string = tree.read("/proc/version") or ""
        release = tree.read("/proc/sys/kernel/osrelease") or _release_in(version_string)
        if not release:
            return Missing(
                "the kernel's release can't be read (/proc/sys/kernel/osrelease, /proc/version)",
                "mount procfs on /proc",
            )
        return cls(
            release,
            version_string,
            upstream_version(release, version_string, tree.read("/proc/version_signature") or ""),
            _compiler_in(version_string),
            build_date(version_string),
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


@dataclass(frozen=True, slots=True)
class OpsCopies:
    """The definitions of struct kvm_x86_ops that one ``module`` was built with, in numbers.

    ``fixed`` of ``copies`` have the member HOST_OWNED_DEBUGCTL. ``is_own`` tells that they are in
    the module's own BTF; otherwise the module has the kernel image's.
    """

    module: str
    copies: int
    fixed: int
    is_own: bool

    def __str__(self) -> str:
        whose = "" if self.is_own else " (the kernel image's)"
        return f"{self.fixed} of {self.copies} in {self.module}{whose}"


@dataclass(frozen=True, slots=True)
class FixPresence:
    """What one kernel's BTF shows of the host-owned DEBUGCTL code, each observation by itself.

    Definitions count that KVM's modules were built with, kvm and the vendor's alike.
    """

    where: str
    """The files that were looked at."""

    ops_copies: int
    """Definitions of struct kvm_x86_ops."""

    ops_copies_with_host_owned_debugctl: int
    """Those that have the member HOST_OWNED_DEBUGCTL."""

    ops_copies_with_control: int
    """Those that have a member every kernel has: ``vcpu_run``, or ``run`` in old ones."""

    control_members: tuple[str, ...]
    """The control members found."""

    has_run_flags_enum: bool
    """enum kvm_x86_run_flags is defined."""

    run_flags: Mapping[str, int]
    """Its enumerators."""

    host_debugctl_offsets: tuple[int, ...]
    """Distinct byte offsets of ``arch.host_debugctl`` in struct kvm_vcpu; empty where absent."""

    kvm_shown_by: str = ""
    """What of KVM's own is in this BTF, in words; empty where it has struct kvm_x86_ops at most,
    which a kernel without KVM has too."""

    modules: tuple[OpsCopies, ...] = ()
    """The definitions of struct kvm_x86_ops by module."""

    @property
    def has_host_owned_debugctl(self) -> bool:
        """Tell whether some struct kvm_x86_ops has the member HOST_OWNED_DEBUGCTL."""
        return self.ops_copies_with_host_owned_debugctl > 0

    @property
    def is_present(self) -> bool:
        """Tell whether every struct kvm_x86_ops has it, and there is a flag to reload DEBUGCTL."""
        copies = self.ops_copies_with_host_owned_debugctl
        return 0 < copies == self.ops_copies and self.load_debugctl is not None

    @property
    def has_control(self) -> bool:
        """Tell whether struct kvm_x86_ops is whole, so that what it does not show is not there."""
        return 0 < self.ops_copies == self.ops_copies_with_control

    @property
    def is_of_kvm(self) -> bool:
        """Tell whether this BTF describes the KVM that runs: only then do its types decide."""
        return self.has_control and bool(self.kvm_shown_by)

    @property
    def is_mixed(self) -> bool:
        """Tell whether kvm and the vendor module were built from different sources."""
        return len({each.fixed == each.copies for each in self.modules}) > 1

    @property
    def load_debugctl(self) -> int | None:
        """Return the mask KVM_RUN_LOAD_DEBUGCTL, or None where there is no such flag."""
        return self.run_flags.get("KVM_RUN_LOAD_DEBUGCTL")

    @property
    def host_debugctl_offset(self) -> int | None:
        """Return the byte offset of ``arch.host_debugctl``, or None where absent or ambiguous."""
        return self.host_debugctl_offsets[0] if len(self.host_debugctl_offsets) == 1 else None


def read_config(tree: Tree, release: str) -> Config | Missing:
    """Read the kernel's configuration from the first place that has it."""
    places = [place.format(release=release) for place in _CONFIG_FILES]
    for place in places:
        text = _config_text(tree.read_bytes(place), packed=place.endswith(".gz"))
        values = parse_config(text)
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


def parse_config(text: str) -> dict[str, str]:
    """Parse a .config file; options that are "not set" are left out."""
    return {
        name: value.strip('"')
        for name, value in re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE | re.ASCII)
    }


def vmlinux_btf(tree: Tree) -> Btf | Missing:
    """Return the BTF of the kernel image; that of the running kernel is read once a process."""
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
    """Parse split BTF; a module that was loaded anew has, mostly, the same types."""
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
            fix = _with_vendor(fix, vendor, btf)
    return fix


def _vendor_btfs(tree: Tree, vmlinux: Btf | Missing | None) -> Iterator[tuple[str, Btf]]:
    """Give name and BTF of each loaded vendor module whose BTF can be read."""
    for path in tree.glob(f"{_BTF_FOLDER}/kvm_*"):
        found = module_btf(tree, path.name, vmlinux)
        if not isinstance(found, Missing):
            yield path.name, found.btf


def observe_fix(btf: Btf, where: str) -> FixPresence:
    """Observe in ``btf``, read from ``where``, what the fix added to KVM's types.

    Raises :class:`BtfError` on corrupt data.
    """
    ops = btf.structs("kvm_x86_ops")
    # Before Linux kernel commit 6b1dd26544d0 ("KVM: VMX: Preserve host's DEBUGCTLMSR_FREEZE_IN_SMM
    # while running the guest") (in v6.17), struct kvm_x86_ops has no member HOST_OWNED_DEBUGCTL.
    fixed = [copy for copy in ops if copy.has("HOST_OWNED_DEBUGCTL")]
    # Before Linux kernel commit 2478b1b220c4 ("KVM: x86: Convert vcpu_run()'s immediate exit param
    # into a generic bitmap") (in v6.17), there is no enum kvm_x86_run_flags.
    flags = btf.enums("kvm_x86_run_flags")
    offsets = btf.offsets("kvm_vcpu", "arch.host_debugctl")
    return FixPresence(
        where,
        ops_copies=len(ops),
        ops_copies_with_host_owned_debugctl=len(fixed),
        ops_copies_with_control=_with_control(ops),
        control_members=tuple(
            name for name in _CONTROL_MEMBERS if any(copy.has(name) for copy in ops)
        ),
        has_run_flags_enum=bool(flags),
        run_flags={name: value for copy in flags for name, value in copy.values.items()},
        host_debugctl_offsets=tuple(offset.in_bytes for offset in offsets),
        kvm_shown_by=_kvm_in(btf, ops),
        modules=(OpsCopies("kvm", len(ops), len(fixed), _are_own(btf, ops)),),
    )


# As of the BTF itself: a module that was loaded anew has, mostly, the same.
_observed_fix = lru_cache(maxsize=4)(observe_fix)


def _with_vendor(fix: FixPresence, vendor: str, btf: Btf) -> FixPresence:
    """Add what the vendor module was built with, where it differs from the kernel image's.

    Where it does not, its BTF says nothing of its own. Raises BtfError on corrupt data.
    """
    ops = btf.structs("kvm_x86_ops")
    if not _are_own(btf, ops):
        return fix
    fixed = sum(copy.has("HOST_OWNED_DEBUGCTL") for copy in ops)
    return replace(
        fix,
        where=f"{fix.where}, {_BTF_FOLDER}/{vendor}",
        ops_copies=fix.ops_copies + len(ops),
        ops_copies_with_host_owned_debugctl=fix.ops_copies_with_host_owned_debugctl + fixed,
        ops_copies_with_control=fix.ops_copies_with_control + _with_control(ops),
        modules=(*fix.modules, OpsCopies(vendor, len(ops), fixed, is_own=True)),
    )


def _with_control(ops: tuple[Struct, ...]) -> int:
    return sum(any(map(copy.has, _CONTROL_MEMBERS)) for copy in ops)


def _are_own(btf: Btf, ops: tuple[Struct, ...]) -> bool:
    """Tell whether definitions are those of split BTF itself."""
    return btf.is_split and bool(ops) and not any(copy.is_inherited for copy in ops)


def _kvm_in(btf: Btf, ops: tuple[Struct, ...]) -> str:
    """Return in words what of KVM's own is in ``btf``, or ""."""
    for name in _KVM_FUNCTIONS:
        if btf.functions(name):
            return f"function {name}"
    return "the module's own struct kvm_x86_ops" if _are_own(btf, ops) else ""


def upstream_version(
    release: str, version_string: str, signature: str = ""
) -> tuple[int, int, int] | None:
    """Return the version in Debian's build, Ubuntu's signature, or the release, in that order."""
    debian = re.search(r"\bDebian (?:\d+:)?(\d\S*)", _build_of(version_string))
    candidates = (debian[1] if debian else "", signature.split(" ")[-1], release)
    for candidate in candidates:
        match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", candidate, re.ASCII)
        if match:
            return int(match[1]), int(match[2]), int(match[3] or 0)
    return None


def build_date(version_string: str) -> str | None:
    """Return when the kernel was built, as its version string has it.

    None where it has no whole date: kbuild cuts the build at 64 characters (init/Makefile), which
    takes the year from those of Ubuntu's kernels whose number is long.
    """
    match = _DATE.search(_build_of(version_string))
    return match[0] if match else None


def _config_text(data: bytes | None, *, packed: bool) -> str:
    if not data:
        return ""
    try:
        return (zlib.decompress(data, _GZIP) if packed else data).decode(errors="replace")
    except zlib.error:
        return ""


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
    # Only a loaded module has this file; a built-in one has its parameters alone.
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
    """Return what loads ``module``: with kvm, the vendor module that this CPU takes, if any."""
    cpu = Cpu.of(tree)
    flags = frozenset() if isinstance(cpu, Missing) else cpu.features
    vendors = (vendor for flag, vendor in _VENDOR_MODULES.items() if flag in flags)
    return next(vendors, module) if module == "kvm" else module


def _corrupt(where: str, error: BtfError) -> Missing:
    return Missing(
        f"the BTF in {where} can't be understood ({error})",
        f"compare with: bpftool btf dump file {where.split()[0]}",
    )


def _release_in(version_string: str) -> str:
    match = re.match(r"Linux version (\S+)", version_string)
    return match[1] if match else ""


def _build_of(version_string: str) -> str:
    """Return the part after the compiler, e.g. ``#1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (…)``.

    That part alone is what uname -v says.
    """
    match = re.search(r"(?:^|\) )(#\d.*)", version_string)
    return match[1] if match else ""


def _compiler_in(version_string: str) -> str | None:
    """Return the second parenthesised group, which may hold parentheses itself."""
    match = re.match(r"Linux version \S+ \([^()]*\) \((.+?)\) #\d", version_string)
    return match[1] if match else None
