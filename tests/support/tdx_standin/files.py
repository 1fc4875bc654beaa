"""System calls on files: the host's come from the stand-in tree, or are answered by its devices."""

import errno
import os
from collections.abc import Callable

from kvmtest.interleave.tracer import TracerError

from .calls import Call
from .host import Host, Opened

READ, WRITE, OPEN, LSEEK, PREAD, PWRITE = 0, 1, 2, 8, 17, 18
MKDIR, RMDIR, OPENAT, MKDIRAT, UNLINKAT = 83, 84, 257, 258, 263
_AT_REMOVEDIR = 0x200

#: Which arguments are paths: open, stat, lstat, access, truncate, chdir, rename, mkdir, rmdir,
#: unlink, symlink, readlink, chmod, chown, statfs; and those with a directory before the path.
PATHS: dict[int, tuple[int, ...]] = {
    **dict.fromkeys((2, 4, 6, 21, 76, 80, 83, 84, 87, 89, 90, 92, 137), (0,)),
    82: (0, 1),
    88: (1,),
    **dict.fromkeys((254, 257, 258, 260, 262, 263, 267, 268, 269, 332, 437, 439), (1,)),
    **dict.fromkeys((264, 265, 316), (1, 3)),
}
#: What would change or reach the real host behind the files' back: mount, init_module,
#: delete_module, iopl, ioperm, finit_module, fsopen, bpf.
FORBIDDEN = frozenset((165, 175, 176, 172, 173, 313, 430, 321))

#: The host's files. All else, such as /usr and /proc/self, is this machine's.
OF_HOST = (
    "/sys", "/proc/cpuinfo", "/proc/version", "/proc/mounts", "/proc/cmdline", "/proc/config.gz",
    "/proc/modules", "/proc/sys/kernel", "/proc/version_signature", "/dev/cpu", "/dev/kmsg",
    "/dev/port", "/dev/mem", "/run/lock", "/var/lib/kvmtest", "/boot", "/lib/modules",
)  # fmt: skip
#: What the tracee opens in place of /dev/kmsg: a character device too.
_CHARACTER_DEVICE = "/dev/null"


def is_of_host(path: str) -> bool:
    """Tell whether an absolute path names a file of the host that is stood in for."""
    return any(path == place or path.startswith(f"{place}/") for place in OF_HOST)


class Files:
    """The files of all traced processes."""

    def __init__(self, host: Host) -> None:
        self._host = host
        #: By process and descriptor.
        self._opened: dict[tuple[int, int], Opened] = {}
        self._answers: dict[int, Callable[[Call, Opened], None]] = {
            READ: lambda call, opened: self._read(call, opened, None),
            PREAD: lambda call, opened: self._read(call, opened, call.arguments[3]),
            WRITE: lambda call, opened: self._write(call, opened, None),
            PWRITE: lambda call, opened: self._write(call, opened, call.arguments[3]),
            LSEEK: self._seek,
        }

    def enter(self, call: Call) -> bool:
        """Take a system call at its entry; False where it is none of the host's files."""
        if call.number in FORBIDDEN:
            call.answer(-errno.EPERM)
            return True
        if call.number in PATHS:
            return self._by_path(call)
        if (closed := call.closes) is not None:
            self._opened.pop(closed, None)
            return False
        answer = self._answers.get(call.number)
        opened = self._opened.get((call.process, call.arguments[0] & 0xFFFFFFFF))
        if answer is None or opened is None:
            return False
        answer(call, opened)
        return True

    def executed(self, process: int) -> None:
        """Forget what was open before execve(2)."""
        self._opened = {key: opened for key, opened in self._opened.items() if key[0] != process}

    def _by_path(self, call: Call) -> bool:
        paths = {}
        for at in PATHS[call.number]:
            try:
                path = call.read_text(call.arguments[at])
            except TracerError:  # The kernel says EFAULT.
                return False
            if path.startswith("/"):
                path = os.path.normpath(path)
                if is_of_host(path):
                    paths[at] = path
        if not paths:
            return False
        if call.number in (RMDIR, UNLINKAT):
            removes = call.number == RMDIR or call.arguments[2] & _AT_REMOVEDIR
            for path in paths.values() if removes else ():
                self._host.removes_directory(path)
        room = call.scratch
        for at, path in paths.items():
            data = os.fsencode(self._place(path)) + b"\0"
            call.write(room, data)
            call.arguments[at] = room
            room += len(data)
        first = next(iter(paths.values()))
        call.go_on(lambda call: self._left(call, first))
        return True

    def _place(self, path: str) -> str:
        if path == "/dev/kmsg":
            return _CHARACTER_DEVICE
        return str(self._host.tree.path(path))

    def _left(self, call: Call, path: str) -> None:
        if call.result >= 0:
            if call.number in (OPEN, OPENAT):
                device = self._host.device(path)
                if device is not None:
                    self._opened[call.process, call.result] = Opened(device)
            elif call.number in (MKDIR, MKDIRAT):
                self._host.made_directory(path)
        call.let_go()

    def _read(self, call: Call, opened: Opened, at: int | None) -> None:
        answer = opened.device.read(opened, call.arguments[2], at)
        if isinstance(answer, bytes):
            call.write(call.arguments[1], answer)
            answer = len(answer)
        call.answer(answer)

    def _write(self, call: Call, opened: Opened, at: int | None) -> None:
        data = call.read(call.arguments[1], call.arguments[2])
        call.answer(opened.device.write(data, at))

    def _seek(self, call: Call, opened: Opened) -> None:
        offset = call.arguments[1]
        call.answer(opened.device.seek(opened, offset, call.arguments[2] & 0xFFFFFFFF))
