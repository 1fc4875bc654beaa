"""GRUB's menu
===========

The entry by which GRUB boots a kernel once: made of the entry that boots the host's own, for GRUB's
custom.cfg, which its menu reads last. The menu itself (grub.cfg) and its default stay as they are.
"""

import re
from collections.abc import Iterator

__all__ = ["ENTRY", "custom", "once", "with_panic"]

#: The entry's id, which ``grub-reboot`` takes.
ENTRY = "kvmtest"

_BEGIN, _END = f"### BEGIN {ENTRY} ###", f"### END {ENTRY} ###"
_OURS = re.compile(rf"^{_BEGIN}\n.*?^{_END}\n", re.MULTILINE | re.DOTALL)
# Seconds after which a kernel that panicked boots again: the default, as the entry is for once.
_PANIC = 30


def once(menu: str, own: str, image: str, initramfs: str) -> str | None:
    """Return an entry that boots a kernel as ``menu`` (grub.cfg) boots the host's ``own`` release.

    ``image`` and ``initramfs`` are paths below /boot. A kernel that can't be loaded has the menu's
    first entry booted; one that panics boots the machine again. None where the menu has no such
    entry, does not read custom.cfg or knows no entry for once.
    """
    if "custom.cfg" not in menu or "${next_entry}" not in menu:
        return None
    for body in _bodies(menu):
        lines = [_replaced(line, own, image, initramfs) for line in body]
        if lines != body:
            return "\n".join(
                (
                    _BEGIN,
                    'if [ "${boot_once}" ]; then set fallback=0; fi',
                    f"menuentry '{ENTRY}' --id '{ENTRY}' {{",
                    *lines,
                    "}",
                    _END,
                    "",
                )
            )
    return None


def custom(present: str, entry: str) -> str:
    """Return the contents of custom.cfg with ``entry``, which replaces an earlier one of ours."""
    kept = _OURS.sub("", present)
    return kept + ("\n" if kept and not kept.endswith("\n") else "") + entry


def with_panic(command_line: str) -> str:
    """Return a command line whose kernel does not stand still after a panic."""
    given = re.search(r"(?:^|\s)panic=", command_line)
    return command_line if given else f"{command_line} panic={_PANIC}"


def _bodies(menu: str) -> Iterator[list[str]]:
    """Give the lines between the braces of each entry, but of those for recovery."""
    body: list[str] | None = None
    for line in menu.splitlines():
        words = line.split()
        if words[:1] == ["menuentry"]:
            body = None if "-recovery-" in line else []
        elif words == ["}"] and body is not None:
            yield body
            body = None
        elif body is not None:
            body.append(line)


def _replaced(line: str, own: str, image: str, initramfs: str) -> str:
    """Return a line of an entry with the other kernel's files instead of the own's."""
    found = re.fullmatch(rf"(\s*linux\w*\s+\S*/)vmlinu[xz]-{re.escape(own)}(?P<rest>\s.*)?", line)
    if found:
        return with_panic(f"{found[1]}{image}{(found['rest'] or '').rstrip()}")
    if re.match(r"\s*initrd\w*\s", line):
        names = rf"(?:initrd(?:\.img)?-{re.escape(own)}|initramfs-{re.escape(own)}\.img)"
        return re.sub(rf"(?<=/){names}(?=\s|$)", lambda _: initramfs, line)
    return line
