"""The kernel's banner
===================

What ``linux_banner`` (init/version.c) says about a build, as /proc/version shows it and a bzImage's
header has it without its first words: ``Linux version 6.1.0-37-amd64
(builder) (compiler) #1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (2025-05-22)``.
"""

import re

__all__ = ["build_date", "compiler", "release", "upstream_version"]

# A build's date as Debian and Proxmox write it, as date(1) and as date --rfc-email (Arch) do.
_DATE = re.compile(
    r"\b\d{4}-\d\d-\d\d(?!\d)"
    r"|\b[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d (?:\S+ )?\d{4}\b"
    r"|\b[A-Z][a-z]{2}, +\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\b",
    re.ASCII,
)


def release(version_string: str) -> str:
    """Return the release in a line of /proc/version, or ""."""
    match = re.match(r"Linux version (\S+)", version_string)
    return match[1] if match else ""


def upstream_version(
    release: str, version_string: str, signature: str = ""
) -> tuple[int, int, int] | None:
    """Return the version in Debian's build, Ubuntu's ``signature``, or ``release``, in that order.

    ``signature`` is the line of /proc/version_signature, which Ubuntu's kernels have.
    """
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


def compiler(version_string: str) -> str | None:
    """Return the compiler in a line of /proc/version, or None."""
    # The second parenthesised group, which may hold parentheses itself.
    match = re.match(r"Linux version \S+ \([^()]*\) \((.+?)\) #\d", version_string)
    return match[1] if match else None


def _build_of(version_string: str) -> str:
    """Return the part after the compiler, e.g. ``#1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (…)``.

    That part alone is what uname -v says.
    """
    match = re.search(r"(?:^|\) )(#\d.*)", version_string)
    return match[1] if match else ""
