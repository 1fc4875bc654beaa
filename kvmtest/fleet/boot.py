"""Kernels of a host
=================

Boots another kernel on a host over a shell, once, and brings the host back to its own. What is
brought stands beside the host's kernels: its package database, its boot loader's menu and default
stay as they are, so that a host which loses power boots its own kernel.

What was brought is on the host's disk before it is: a record, from which another process undoes it.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from kvmtest.errors import EnvironmentUnfit, printable

from . import grub
from .host import HostLost, WrongKernel
from .packed_kernel import CONFIG, IMAGE, MODULES, RELEASE, PackedKernel
from .shell import PATIENCE, CommandFailed, ConnectionLost, Shell, TooSlow, patiently, seconds_left

__all__ = ["FOLDER", "HostKernel", "Power", "Running", "Way"]

#: Where the record is, on the host, and what is on its way.
FOLDER = "/var/lib/kvmtest/kernel"

_RECORD = f"{FOLDER}/record.json"
_BOOT = "/boot/kvmtest"
_MENU_FOLDERS = ("/boot/grub", "/boot/grub2")
_MENU_MOST = 4 << 20
_RECORD_MOST = 1 << 16
_INITRAMFS = "initrd.img"
# Seconds for the reboot's command, whose connection may end with the host or stay silent.
_GOING_DOWN_S = 30.0
# Seconds between two questions to a host that has still to go down.
_PAUSE = 2.0
# Seconds of silence after which a host with power is switched off and on.
_SILENCE_S = 120.0

_LOOK = f"""
uname -r && uname -v && cat /proc/sys/kernel/random/boot_id && cat {_RECORD} 2>/dev/null
exit 0
"""
_HAS_MODULES = """
[ -d "/lib/modules/$1" ] || exit 0
echo there
sha256sum "/boot/vmlinuz-$1" 2>/dev/null || echo "no image"
"""
_REMOVE_RECORD = f"""
[ -e {FOLDER} ] || exit 0
rm -rf {FOLDER}
rmdir /var/lib/kvmtest 2>/dev/null
sync
[ ! -e {FOLDER} ]
"""

# A connection that is lost does not end what it began: that is waited for.
_ALONE = f"exec 9>{FOLDER}/lock && flock 9"
# Words: the release, the archive, and whether its modules are to be unpacked. Each run begins anew.
_UNPACK = f"""
set -eu
{_ALONE}
boot={_BOOT}/$1
rm -rf "$boot"
mkdir -p "$boot"
tar -xzf "$2" -C "$boot" --no-same-owner --exclude={MODULES}
[ ! -e "$boot/{CONFIG}" ] || [ -e "/boot/config-$1" ] || ln -sf "$boot/{CONFIG}" "/boot/config-$1"
if [ "$3" = yes ]; then
	rm -rf "/lib/modules/$1"
	mkdir -p "/lib/modules/$1"
	tar -xzf "$2" -C /lib/modules --no-same-owner --strip-components=1 {MODULES}
	[ -e "/lib/modules/$1/modules.dep" ] || depmod "$1"
fi
rm -f "$2"
if command -v mkinitramfs >/dev/null; then
	mkinitramfs -o "$boot/{_INITRAMFS}" "$1"
elif command -v dracut >/dev/null; then
	dracut --quiet --force "$boot/{_INITRAMFS}" "$1"
else
	echo "neither mkinitramfs nor dracut; install initramfs-tools" >&2
	exit 1
fi
sync
"""
# Words: the release, and whether its modules were brought.
_REMOVE = f"""
set -eu
{_ALONE}
[ ! -L "/boot/config-$1" ] || rm "/boot/config-$1"
rm -rf "{_BOOT}/$1"
[ "$2" = no ] || rm -rf "/lib/modules/$1"
rmdir {_BOOT} 2>/dev/null || true
sync
"""
_GRUB_TOOL = """
for tool in "grub-$1" "grub2-$1"; do
	if command -v "$tool" >/dev/null; then shift; exec "$tool" "$@"; fi
done
echo "there is no grub-$1" >&2
exit 127
"""
# Takes the next boot back. What is not there is no error; what is there and stays is one.
_DISARM = f"""
set -eu
for folder in {" ".join(_MENU_FOLDERS)}; do
	if [ -e "$folder/grubenv" ] && grep -Eq '^next_entry=({grub.ENTRY})?$' "$folder/grubenv"; then
		tool=grub-editenv
		command -v "$tool" >/dev/null || tool=grub2-editenv
		"$tool" "$folder/grubenv" unset next_entry
	fi
	if [ -e "$folder/custom.cfg" ]; then
		sed -i '/^### BEGIN {grub.ENTRY} ###$/,/^### END {grub.ENTRY} ###$/d' "$folder/custom.cfg"
		[ -s "$folder/custom.cfg" ] || rm "$folder/custom.cfg"
	fi
done
if [ "$(cat /sys/kernel/kexec_loaded 2>/dev/null)" = 1 ]; then kexec -u; fi
sync
"""
# Words: the image, the initramfs, the command line.
_LOAD = 'kexec -l "$1" --initrd="$2" --command-line="$3"'
_REBOOT = "sync; systemctl reboot 2>/dev/null || reboot"
_KEXEC = "sync; systemctl kexec 2>/dev/null || kexec -e"


class Way(StrEnum):
    """How a host boots a kernel once."""

    GRUB = "grub"
    """By an entry of GRUB's custom.cfg that ``grub-reboot`` has chosen for the next boot."""

    KEXEC = "kexec"
    """By kexec(8): no firmware runs in between."""


class Power(Protocol):
    """Switches a host off and on again."""

    def cycle(self) -> None:
        """Do so; the host boots its default kernel."""


@dataclass(frozen=True, slots=True)
class Running:
    """What runs on a host."""

    release: str
    """As uname -r gives it."""

    build: str
    """As uname -v gives it."""

    boot_id: str
    """Another one at each boot (random(4))."""

    def is_kernel(self, kernel: PackedKernel) -> bool:
        """Tell whether it is that very build."""
        return self.is_named(kernel.release, kernel.banner)

    def is_named(self, release: str | None, banner: str | None) -> bool:
        """Tell whether it has that release, and its build stands in ``banner``."""
        return self.release == release and self.build in printable(banner or "")


@dataclass(frozen=True, slots=True)
class _Brought:
    """A kernel that was brought to a host, or was about to be."""

    release: str
    digest: str
    with_modules: bool
    """False where the host has the same kernel's modules of its own."""

    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class _Record:
    """What undoing needs to know."""

    own: str
    """The release of the host's own kernel."""

    brought: Sequence[_Brought] = ()

    def has_brought(self, running: Running) -> bool:
        """Tell whether it is a kernel that was brought that runs."""
        return any(each.release == running.release != self.own for each in self.brought)


@dataclass(frozen=True, slots=True)
class _State:
    running: Running
    record: _Record | None


class HostKernel:
    """The kernel that a host runs. ``first`` is the way of booting it once that is tried first.

    ``on_step`` gets a line before each step that takes seconds. All calls may be made again by
    another process after this one was killed at any point.
    """

    def __init__(
        self,
        shell: Shell,
        on_step: Callable[[str], None],
        power: Power | None = None,
        first: Way = Way.GRUB,
    ) -> None:
        self._shell = shell
        self._on_step = on_step
        self._power = power
        self._ways = [first, *(way for way in Way if way is not first)]

    def boot(self, kernel: PackedKernel | None, deadline: float) -> Running:
        """Boot a kernel, within ``deadline`` seconds; None is the host's own. Return what runs.

        A kernel that runs already is not booted again. Raises HostLost, WrongKernel, and
        EnvironmentUnfit where the host can't have that kernel.
        """
        if kernel is None:
            return self.restore(deadline)
        return self._again_while_lost(lambda until: self._boot(kernel, until), deadline)

    def restore(self, deadline: float) -> Running:
        """Return to the host's own kernel, and remove what was brought; return what runs.

        A host that does not answer is switched off and on again where there is ``power``. Raises
        HostLost where the host can't be seen to be as it was.
        """
        return self._again_while_lost(self._restore, deadline)

    def wake(self, deadline: float) -> Running:
        """Return what runs once the host answers; switch it off and on again as ``restore`` does.

        Raises HostLost where it does not answer.
        """
        return self._again_while_lost(lambda until: self._look_or_cycle(until).running, deadline)

    def _again_while_lost(self, work: Callable[[float], Running], deadline: float) -> Running:
        """Do what can be done again from its beginning, until the host was there all the time."""
        until = time.monotonic() + deadline
        while True:
            try:
                return work(until)
            except (ConnectionLost, TooSlow) as error:
                if time.monotonic() < until - _PAUSE:
                    continue
                raise HostLost(
                    f"{self._shell.name}: it did not answer within {deadline:.0f} s ({error})", ""
                ) from None

    def _boot(self, kernel: PackedKernel, until: float) -> Running:
        state = self._look(until)
        if state.running.is_kernel(kernel):
            self._disarm()
            return state.running
        record = self._brought(kernel, state, until)
        way = self._arm(kernel.release, record.own)
        running = self._rebooted(way, state.running, kernel.release, until)
        # Where GRUB can't write its environment, the entry for once would stay.
        self._disarm()
        if not running.is_kernel(kernel):
            raise WrongKernel(
                f"{self._shell.name}: {running.release} ({running.build}) runs there after the "
                f"reboot into {kernel.release}, which did not start or broke down; see its console",
                "",
            )
        self._remove_all_but(kernel.release)
        return running

    def _restore(self, until: float) -> Running:
        state = self._look_or_cycle(until)
        running, record = state.running, state.record
        if record is None:
            # A process that was killed before it wrote one left its folder at most.
            self._script(_REMOVE_RECORD, what="can't remove the record")
            return running
        self._disarm()
        if record.has_brought(running):
            running = self._rebooted(Way.GRUB, running, record.own, until)
        if record.has_brought(running):
            raise HostLost(
                f"{self._shell.name}: it came back with {running.release}, not with its own "
                f"{record.own}; choose its kernel by hand",
                "",
            )
        self._remove_all_but(None)
        return running

    def _brought(self, kernel: PackedKernel, state: _State, until: float) -> _Record:
        """Bring a kernel to the host, whole; return the record with it."""
        record = state.record or _Record(own=state.running.release)
        for each in record.brought:
            if each.digest == kernel.digest and each.is_whole:
                return record
        if any(each.release == kernel.release == state.running.release for each in record.brought):
            # Another build of the release that runs: its modules can't be replaced under it.
            self._restore(until)
            return self._brought(kernel, self._look(until), until)
        others = [each for each in record.brought if each.release != kernel.release]
        ours = len(others) < len(record.brought) or self._has_no_modules(kernel)
        new = _Brought(kernel.release, kernel.digest, with_modules=ours)
        self._write_record(replace(record, brought=(*others, new)))
        archive = f"{FOLDER}/{kernel.release}.tar.gz"
        size = kernel.archive.stat().st_size / 1e6
        self._on_step(f"{self._shell.name}: bringing {kernel.release} ({size:.0f} MB)")
        self._shell.put(kernel.archive, archive, deadline=seconds_left(until))
        unpack = "yes" if ours and kernel.has_modules else "no"
        self._script(
            _UNPACK, kernel.release, archive, unpack,
            what=f"can't unpack {kernel.release}", deadline=seconds_left(until),
        )  # fmt: skip
        record = replace(record, brought=(*others, replace(new, is_whole=True)))
        self._write_record(record)
        return record

    def _has_no_modules(self, kernel: PackedKernel) -> bool:
        """Tell whether the host lacks the kernel's modules; raises where it has another build's."""
        words = self._script(_HAS_MODULES, kernel.release, what="can't look for modules").split()
        if words and words[1] != kernel.image_digest:
            raise EnvironmentUnfit(
                f"{self._shell.name}: it has modules of another build of {kernel.release} in "
                "/lib/modules; remove them, or take a kernel of another release"
            )
        return not words

    def _arm(self, release: str, own: str) -> Way:
        """Have the next boot, and no other, boot the release that was brought."""
        for way in self._ways:
            if (self._arm_grub if way is Way.GRUB else self._arm_kexec)(release, own):
                return way
        raise EnvironmentUnfit(
            f"{self._shell.name}: nothing there boots a kernel once: no entry of GRUB's menu boots "
            f"{own} by its file, or custom.cfg is not read; and there is no kexec; install "
            "kexec-tools"
        )

    def _arm_grub(self, release: str, own: str) -> bool:
        for folder in _MENU_FOLDERS:
            try:
                menu = self._text(f"{folder}/grub.cfg")
            except CommandFailed:
                continue
            below = f"kvmtest/{release}"
            entry = grub.once(menu, own, f"{below}/{IMAGE}", f"{below}/{_INITRAMFS}")
            if entry is None:
                continue
            present = ""
            with contextlib.suppress(CommandFailed):
                present = self._text(f"{folder}/custom.cfg")
            self._write(f"{folder}/custom.cfg", grub.custom(present, entry))
            self._script(_GRUB_TOOL, "reboot", grub.ENTRY, what="grub-reboot failed")
            said = self._script(
                _GRUB_TOOL, "editenv", f"{folder}/grubenv", "list", what="grub-editenv failed"
            )
            if f"next_entry={grub.ENTRY}" in said.split():
                return True
            raise EnvironmentUnfit(f"{self._shell.name}: GRUB did not keep the entry for once")
        return False

    def _arm_kexec(self, release: str, own: str) -> bool:
        if self._shell.run(["sh", "-c", "command -v kexec"]).status:
            return False
        line = [
            word
            for word in self._text("/proc/cmdline").split()
            if not word.startswith(("BOOT_IMAGE=", "initrd="))
        ]
        folder = f"{_BOOT}/{release}"
        self._script(
            _LOAD, f"{folder}/{IMAGE}", f"{folder}/{_INITRAMFS}", grub.with_panic(" ".join(line)),
            what=f"kexec can't load {release}",
        )  # fmt: skip
        return True

    def _disarm(self) -> None:
        self._script(_DISARM, what="can't take the boot for once back")

    def _rebooted(self, way: Way, before: Running, release: str, until: float) -> Running:
        """Reboot; return what runs when the host is back."""
        self._on_step(f"{self._shell.name}: rebooting into {release} by {way}")
        script = _KEXEC if way is Way.KEXEC else _REBOOT
        began = time.monotonic()
        # Its end tells nothing: the host may take the connection down first, or not at all.
        with contextlib.suppress(ConnectionLost, TooSlow):
            deadline = min(_GOING_DOWN_S, seconds_left(until))
            ran = self._shell.run(["sh", "-c", script], deadline=deadline)
            ran.must(f"{self._shell.name}: can't reboot")
        while True:
            with contextlib.suppress(TooSlow):
                running = self._look(until).running
                if running.boot_id != before.boot_id:
                    return running
            if time.monotonic() >= until:
                raise HostLost(
                    f"{self._shell.name}: it did not reboot in {until - began:.0f} s; see its "
                    "console",
                    "",
                )
            time.sleep(_PAUSE)

    def _remove_all_but(self, release: str | None) -> None:
        """Remove what was brought, but one release; without one the record goes, too."""
        record = _record_of(self._text(_RECORD, _RECORD_MOST))
        kept = [each for each in record.brought if each.release == release]
        for each in record.brought:
            if each not in kept:
                self._script(
                    _REMOVE, each.release, "yes" if each.with_modules else "no",
                    what=f"can't remove {each.release}",
                )  # fmt: skip
        if release is None:
            self._script(_REMOVE_RECORD, what="can't remove the record")
        elif len(kept) < len(record.brought):
            self._write_record(replace(record, brought=tuple(kept)))

    # What is asked of the host.

    def _look_or_cycle(self, until: float) -> _State:
        if self._power is None:
            return self._look(until)
        try:
            return self._look(min(until, time.monotonic() + _SILENCE_S))
        except (ConnectionLost, TooSlow):
            self._on_step(f"{self._shell.name}: no answer; switching it off and on again")
            self._power.cycle()
            return self._look(until)

    def _look(self, until: float) -> _State:
        """Ask what runs, and for the record, until the host answers."""
        ran = patiently(self._shell, ["sh", "-c", _LOOK], until)
        lines = ran.must(f"{self._shell.name}: can't ask for its kernel").text.split("\n", 3)
        if len(lines) < 3 or not RELEASE.fullmatch(lines[0]):
            raise EnvironmentUnfit(
                f"{self._shell.name}: {printable(ran.text)[:80]!r} is no kernel; see to the host"
            )
        running = Running(lines[0], printable(lines[1]), lines[2])
        return _State(running, _record_of(lines[3]) if lines[3:] else None)

    def _write_record(self, record: _Record) -> None:
        self._script('mkdir -p "$1" && sync', FOLDER, what=f"can't make {FOLDER}")
        self._write(_RECORD, json.dumps(asdict(record)))

    def _write(self, path: str, text: str) -> None:
        with tempfile.NamedTemporaryFile(prefix="kvmtest-") as file:
            Path(file.name).write_text(text)
            self._shell.put(Path(file.name), path)

    def _text(self, path: str, most: int = _MENU_MOST) -> str:
        return self._shell.get(path, most=most).decode(errors="replace")

    def _script(self, script: str, *words: str, what: str, deadline: float = PATIENCE) -> str:
        ran = self._shell.run(["sh", "-c", script, "sh", *words], deadline=deadline)
        return ran.must(f"{self._shell.name}: {what}").text


def _record_of(text: str) -> _Record:
    """Return the record that a host has; raises EnvironmentUnfit where it is none of ours."""
    try:
        found: Any = json.loads(text)
        record = _Record(found["own"], tuple(_Brought(**each) for each in found["brought"]))
        for release in (record.own, *(each.release for each in record.brought)):
            if not RELEASE.fullmatch(release):
                raise ValueError(release)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise EnvironmentUnfit(
            f"{_RECORD} on the host is damaged; remove {_BOOT} and {FOLDER} there"
        ) from None
    return record
