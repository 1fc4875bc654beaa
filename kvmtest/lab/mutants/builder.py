"""KVM modules built from source
=============================

Builds kvm.ko and a vendor module of one kernel out of its tree, patched or not, from what a
distribution packages for that: the source, the headers and the kernel's BTF. The modules load into
the stock kernel beside its own irqbypass.ko, and have split BTF like the stock ones.

Nothing of the packages has to be installed. The unpatched source is compiled once for a kernel; a
patch costs the compilation of what it touches.
"""

import fcntl
import filecmp
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from kvmtest.cache import Cache
from kvmtest.errors import EnvironmentUnfit
from kvmtest.kernels.modules import file_name

__all__ = ["BuildKit", "ModuleBuilder", "PatchRefused"]

# The option that builds the vendor module which is not wanted.
_OTHERS = {"kvm_intel": "CONFIG_KVM_AMD", "kvm_amd": "CONFIG_KVM_INTEL"}

_KVM = Path("arch/x86/kvm")
# KVM, and those of its headers that a patch may change: they come before the packaged ones.
_SOURCES = ("arch/x86/kvm", "virt/kvm", "arch/x86/include/asm/kvm*.h")
# The first is for KVM's headers, the second for its tracepoints, whose path is relative to it.
_KBUILD = """\
NOSTDINC_FLAGS += -I$(KBUILD_EXTMOD)/arch/x86/include -I$(KBUILD_EXTMOD)/virt/kvm
obj-m := arch/x86/kvm/
"""
# Commands beside the kernel's own compiler, and the Debian packages that have them.
_TOOLS = {
    "make": "make",
    "patch": "patch",
    "tar": "tar",
    "xz": "xz-utils",
    "pahole": "dwarves",
    "strip": "binutils",
}
_COMPLAINT = re.compile(rb".*(?:\berror\b|\*\*\*|not found|No such file|FAILED|failed).*", re.I)


class PatchRefused(EnvironmentUnfit):
    """A patch does not fit the source of this kernel, or changes none of its modules."""


@dataclass(frozen=True, slots=True)
class BuildKit:
    """What the modules of one kernel are made from.

    The folders are those that the packages linux-headers-V-amd64, linux-headers-V-common and
    linux-kbuild-V hold below /usr/src and /usr/lib, wherever they were unpacked; ``source`` is the
    tarball of linux-source-V. ``vmlinux`` is the kernel's, or any file with its BTF; None where the
    headers have it.
    """

    headers: Path
    common: Path
    kbuild: Path
    source: Path
    vmlinux: Path | None = None

    @property
    def release(self) -> str:
        """The kernel's release, as uname -r gives it."""
        header = "include/generated/utsrelease.h"
        return self._find(header, r'UTS_RELEASE "([^"]+)"', f"#define UTS_RELEASE in {header}")

    @property
    def compiler(self) -> str:
        """The command of the compiler that built the kernel."""
        option = "CONFIG_CC_VERSION_TEXT"
        return self._find(".config", rf'^{option}="(\S+)', f"{option} in .config")

    @property
    def btf(self) -> Path:
        """The file with the kernel's own BTF."""
        return self.vmlinux or self.headers / "vmlinux"

    def _find(self, name: str, pattern: str, what: str) -> str:
        path = self.headers / name
        try:
            match = re.search(pattern, path.read_text(), re.M)
        except OSError as error:
            raise EnvironmentUnfit(
                f"{self.headers} is no folder of kernel headers ({path}: {error.strerror}); "
                "unpack the package linux-headers of the kernel"
            ) from None
        if match is None:
            raise EnvironmentUnfit(f"{self.headers} has no {what}; unpack its package again")
        return match[1]


@dataclass(frozen=True)
class ModuleBuilder:
    """Builds the modules of one kernel; what was built is kept in ``cache``.

    ``on_step`` gets a line before each step that takes seconds. ``vendor`` is the module that is
    built beside kvm; it uses kvm, and both use the stock irqbypass.
    """

    kit: BuildKit
    cache: Cache
    on_step: Callable[[str], None]
    vendor: str = "kvm_intel"

    @property
    def modules(self) -> tuple[str, str]:
        """The files that are built."""
        return "kvm.ko", file_name(self.vendor)

    def build(self, patches: Sequence[Path] = ()) -> Path:
        """Return the folder with the modules, made from the source with ``patches`` applied.

        With patches it has those alone that the patches change. Raises PatchRefused where one does
        not fit or nothing changes, and EnvironmentUnfit where a tool or a part of the kit is
        missing or the compilation fails.
        """
        digest = _digest([self._tree_digest.encode(), *(each.read_bytes() for each in patches)])
        return self.cache.entry("kvm-modules", digest, lambda folder: self._make(folder, patches))

    @cached_property
    def _tree_digest(self) -> str:
        """The digest of the compiled source of this kernel, of this code and of the tools."""
        kit = self.kit
        self._require_tools()
        files = [
            Path(__file__),
            kit.headers / ".config",
            kit.headers / "Module.symvers",
            kit.headers / "include/generated/utsrelease.h",
            kit.btf,
            kit.source,
        ]
        return _digest(
            [
                *map(self._file_digest, files),
                self.vendor.encode(),
                *(_first_line(tool, "--version") for tool in (kit.compiler, "pahole")),
            ]
        )

    def _file_digest(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise EnvironmentUnfit(
                f"can't build KVM of {self.kit.release}: {path}: {error.strerror}; "
                "fetch and unpack what it is built from again"
            ) from None

    def _require_tools(self) -> None:
        compiler = self.kit.compiler
        tools = _TOOLS | {compiler: compiler.removeprefix("x86_64-linux-gnu-")}
        missing = {tool: package for tool, package in tools.items() if not shutil.which(tool)}
        if missing:
            raise EnvironmentUnfit(
                f"building KVM of {self.kit.release} needs {', '.join(missing)}; "
                f"install it: apt-get install {' '.join(missing.values())}"
            )

    def _make(self, folder: Path, patches: Sequence[Path]) -> None:
        tree = self.cache.entry("kvm-trees", self._tree_digest, self._make_tree)
        with self._work() as (work, log):
            self._run(_copying(tree / "source", work / "source"), work, log)
            for patch in patches:
                self._apply(patch, work / "source", log)
            names = " ".join(patch.stem for patch in patches)
            if patches:
                self.on_step(f"compiling KVM of {self.kit.release} with {names}")
                self._compile(work, log)
            for name in self.modules:
                built = work / "source" / _KVM / name
                if patches and filecmp.cmp(built, tree / "source" / _KVM / name, shallow=False):
                    continue
                self._run(
                    ["strip", "--strip-debug", "-o", str(folder / name), str(built)], work, log
                )
                self._check(folder / name)
        if not any(folder.iterdir()):
            raise PatchRefused(f"{names} changes no module of KVM of {self.kit.release}")

    def _make_tree(self, folder: Path) -> None:
        """Put the compiled source without patches into ``folder``."""
        with self._work() as (work, log):
            source = work / "source"
            self.on_step(f"unpacking KVM of {self.kit.release} from {self.kit.source.name}")
            self._unpack(source, log)
            self.on_step(f"compiling KVM of {self.kit.release}")
            self._compile(work, log)
            self._run(_copying(source, folder / "source"), work, log)

    @contextmanager
    def _work(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """Give the one folder that this kernel is compiled in, empty, and the log of the work.

        The folder is always the same: kbuild compiles again what was compiled elsewhere. The log is
        its lock: a compiler that outlives this process holds it open.
        """
        work = self.cache.root.resolve() / "kvm-work" / self._tree_digest
        if re.search(r"[\s:%]", str(work)):
            raise EnvironmentUnfit(
                f"kbuild can't work in {work}; set KVMTEST_CACHE to a folder whose path is without "
                "spaces, colons and percent signs"
            )
        work.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with work.with_name(f"{work.name}.log").open("ab") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.seek(0)
            log.truncate()
            shutil.rmtree(work, ignore_errors=True)
            try:
                self._link_headers(work)
                yield work, log
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def _link_headers(self, work: Path) -> None:
        """Lay out headers and scripts below ``work`` as if their packages were installed there."""
        kit = self.kit
        headers, common = work / "headers", work / "common"
        scripts = {"scripts": kit.kbuild / "scripts", "tools": kit.kbuild / "tools"}
        _link(common, _children(kit.common) | scripts)
        _link(headers, _children(kit.headers) | scripts | {"vmlinux": kit.btf})
        makefile = headers / "Makefile"
        # Before Debian's 7.x only the common headers are named there.
        text = re.sub(
            r"/usr/src/linux-headers-[^/\s]*",
            lambda path: str(common if path[0].endswith("-common") else headers),
            makefile.read_text(),
        )
        makefile.unlink()
        makefile.write_text(text)

    def _unpack(self, source: Path, log: IO[bytes]) -> None:
        source.mkdir()
        archive = self.kit.source.absolute()
        command = ["tar", "--extract", "--file", str(archive), "--strip-components=1"]
        self._run([*command, "--wildcards", *(f"*/{each}" for each in _SOURCES)], source, log)
        (source / "Kbuild").write_text(_KBUILD)
        makefile = source / _KVM / "Makefile"
        text = makefile.read_text()
        for part in (f"{_KVM}", "virt/kvm"):
            text = text.replace(f"$(srctree)/{part}", f"$(KBUILD_EXTMOD)/{part}")
        makefile.write_text(text)

    def _apply(self, patch: Path, source: Path, log: IO[bytes]) -> None:
        # A patch that fits only with fuzz may break another line than it says.
        options = ["--strip=1", "--forward", "--batch", "--fuzz=0", "--reject-file=-"]
        command = ["patch", *options, f"--input={patch.absolute()}"]
        start = log.tell()
        if _run(command, source, log):
            raise PatchRefused(
                f"{patch.name} does not apply to KVM of {self.kit.release} "
                f"({_complaint(log, start)}); use the kernel it was written for"
            )

    def _compile(self, work: Path, log: IO[bytes]) -> None:
        jobs = f"--jobs={len(os.sched_getaffinity(0))}"
        other = _OTHERS[self.vendor]
        kbuild = [f"M={work / 'source'}", f"{other}=", "modules"]
        self._run(["make", jobs, *kbuild], work / "headers", log)

    def _run(self, command: Sequence[str], folder: Path, log: IO[bytes]) -> None:
        start = log.tell()
        if _run(command, folder, log):
            raise EnvironmentUnfit(
                f"building KVM of {self.kit.release} failed in {command[0]} "
                f"({_complaint(log, start)}); see {log.name}"
            )

    def _check(self, module: Path) -> None:
        """Raise EnvironmentUnfit where the kernel or kvmtest could not use the module."""
        from elftools.elf.elffile import ELFFile

        with module.open("rb") as file:
            elf = ELFFile(file)
            info: Any = elf.get_section_by_name(".modinfo")
            words = info.data().split(b"\0") if info else []
            has_btf = elf.get_section_by_name(".BTF") is not None
        vermagic = f"vermagic={self.kit.release} ".encode()
        if not any(word.startswith(vermagic) for word in words):
            raise EnvironmentUnfit(
                f"{module.name} was built for another kernel than {self.kit.release}; "
                "unpack matching packages of headers and kbuild"
            )
        if not has_btf:
            raise EnvironmentUnfit(
                f"{module.name} of {self.kit.release} was built without BTF; give a vmlinux that "
                "has it, and a pahole that the kernel's scripts know"
            )


def _run(command: Sequence[str], folder: Path, log: IO[bytes]) -> int:
    """Run a command to its end; kill it and its children where this process is interrupted."""
    # The user's variables for make and kbuild are not meant for this.
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment
        | {
            "LC_ALL": "C",
            # pahole then works in one thread: the same source gives the same BTF.
            "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
        },
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0,
    )
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        log.seek(0, os.SEEK_END)


def _complaint(log: IO[bytes], start: int) -> str:
    """Return the first line since ``start`` that looks like the cause, or the last one."""
    lines = Path(log.name).read_bytes()[start:].splitlines() or [b"it said nothing"]
    line = next((line for line in lines if _COMPLAINT.fullmatch(line)), lines[-1])
    return " ".join(line.decode(errors="replace").split())


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:32]


def _first_line(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout.partition(b"\n")[0]


def _children(folder: Path) -> dict[str, Path]:
    return {child.name: child for child in folder.resolve().iterdir()}


def _link(folder: Path, targets: dict[str, Path]) -> None:
    folder.mkdir(parents=True)
    for name, target in targets.items():
        (folder / name).symlink_to(target.absolute())


def _copying(source: Path, target: Path) -> list[str]:
    """Return the command that copies a tree with its times, which make goes by."""
    return ["cp", "--archive", "--reflink=auto", str(source), str(target)]
