"""The source of a reproducer
==========================

Puts one C file together, of the texts in parts/ and programs/, and a Makefile.
"""

import re
import textwrap
from pathlib import Path

from .numbers import EXIT_STATUS, lines, meanings
from .table import Reproducer

__all__ = ["c_source", "makefile"]

_HERE = Path(__file__).parent

_INCLUDE = re.compile(r"#include <\S+>\n")
_NAMED = re.compile(r"@([\w:]+)@")

_USE = """\
{needs} Run it by make run, as root on an Intel host. Exit status, as in kselftest: {KSFT_PASS} if \
what it claims of the kernel holds, {KSFT_FAIL} if it does not, {KSFT_SKIP} if this machine can't \
tell. Written by kvmtest reproduce {name}.
"""


def c_source(reproducer: Reproducer) -> str:
    """Return the whole C file."""
    texts = [(_HERE / "parts" / f"{part}.c").read_text() for part in reproducer.parts]
    texts.append((_HERE / "programs" / f"{reproducer.name}.c").read_text())
    includes = sorted({line for text in texts for line in _INCLUDE.findall(text)})
    code = "\n".join(_INCLUDE.sub("", text).strip() + "\n" for text in texts)
    own = {"CLAIMS": lines(f'\t"{claim}",' for claim in reproducer.claims)}
    named = {**meanings(), **own}
    return "".join(
        [
            "// SPDX-License-Identifier: GPL-2.0-only\n",
            _comment(reproducer),
            "#define _GNU_SOURCE\n",
            *includes,
            "\n",
            _NAMED.sub(lambda match: named[match[1]], code),
        ]
    )


def makefile(reproducer: Reproducer) -> str:
    """Return a Makefile that builds and runs the C file."""
    return (_HERE / "Makefile").read_text().replace("@NAME@", reproducer.name)


def _comment(reproducer: Reproducer) -> str:
    use = _USE.format(needs=" ".join(reproducer.needs), name=reproducer.name, **EXIT_STATUS)
    wrapped = [*_wrapped(reproducer.about), "", *_wrapped(use)]
    return lines(["/*", *(f" * {line}".rstrip() for line in wrapped), " */", ""])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 97, break_on_hyphens=False)
