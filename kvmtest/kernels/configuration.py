"""A kernel's configuration
========================

The options that a kernel was built with: as kbuild writes them (.config, include/config/auto.conf,
/boot/config-RELEASE), and as an image with CONFIG_IKCONFIG holds them (kernel/configs.c).
"""

import re
import zlib

__all__ = ["embedded", "gunzipped", "parse"]

# What stands before the packed .config in an image.
_MARK = b"IKCFG_ST"
_GZIP = 16 + zlib.MAX_WBITS
# Bytes; the largest .config has 0.4 MB.
_MOST = 16 << 20


def parse(text: str) -> dict[str, str]:
    """Return the options in a .config file, by name without ``CONFIG_``.

    Values are ``y``, ``m``, numbers, and strings without their quotes; options that are "not set"
    are left out.
    """
    return {
        name: value.strip('"')
        for name, value in re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.MULTILINE | re.ASCII)
    }


def embedded(vmlinux: bytes) -> dict[str, str] | None:
    """Return the options that an image (the ELF file) holds; None where it holds none."""
    at = vmlinux.find(_MARK)
    return parse(gunzipped(vmlinux[at + len(_MARK) :])) or None if at >= 0 else None


def gunzipped(data: bytes) -> str:
    """Return the text in the gzip stream that ``data`` begins with; "" where that is damaged."""
    stream = zlib.decompressobj(_GZIP)
    try:
        text = stream.decompress(data, _MOST)
    except zlib.error:
        return ""
    return text.decode(errors="replace") if stream.eof else ""
