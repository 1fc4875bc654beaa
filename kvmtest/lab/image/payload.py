"""Payloads

What a machine gets on its payload drive, as a tar archive: kvmtest itself, or one job.
"""

import importlib.util
import io
import json
import secrets
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import kvmtest

from . import bytecode

__all__ = ["archive", "job", "package", "with_bytecode"]

Files = Mapping[str, bytes]

# Parts of kvmtest that no run inside needs. There is no pytest inside.
_OUTSIDE = (
    "kvmtest/lab/",
    "kvmtest/commands/apart.py",
    "kvmtest/commands/fleet_",
    "kvmtest/commands/lab_",
    "kvmtest/commands/matrix_rows.py",
    "kvmtest/commands/named_runs.py",
    "kvmtest/commands/report_html.py",
    "kvmtest/cache.py",
    "kvmtest/child.py",
    "kvmtest/evidence/expectations.py",
    "kvmtest/evidence/folder.py",
    "kvmtest/evidence/pairs.py",
    "kvmtest/fleet/",
    "kvmtest/host/facts/kernel_parts.py",
    "kvmtest/parallel.py",
    "kvmtest/plugin.py",
    "kvmtest/report/at_work.py",
    "kvmtest/report/comparison.py",
    "kvmtest/report/fleet",
    "kvmtest/report/html/",
    "kvmtest/report/kernel.py",
    "kvmtest/report/kernels_page.py",
    "kvmtest/report/marks.py",
    "kvmtest/report/matrix",
    "kvmtest/reproducers/",
    "kvmtest/suite/",
)
# What a run and doctor need of kvmtest/kernels: types, banner and options of a running kernel, and
# the table of the series, not files.
_KERNELS = "kvmtest/kernels/"
_OF_RUNNING_KERNELS = {
    "__init__.py", "banner.py", "btf.py", "configuration.py", "fix.py", "series.py",
}  # fmt: skip


def package() -> dict[str, bytes]:
    """Return the files of the running kvmtest, with its native parts."""
    files = {}
    root = Path(kvmtest.__file__).parent
    for path in sorted(root.rglob("*")):
        name = f"kvmtest/{path.relative_to(root)}"
        if path.is_file() and _goes_inside(name):
            files[name] = path.read_bytes()
    return files


def _goes_inside(name: str) -> bool:
    if name.startswith(_KERNELS):
        return name.removeprefix(_KERNELS) in _OF_RUNNING_KERNELS
    return not name.startswith(_OUTSIDE) and "__pycache__" not in name


def with_bytecode(files: Files) -> dict[str, bytes]:
    """Return the files with bytecode beside every Python source."""
    made = dict(files)
    for name, source in files.items():
        if name.endswith(".py") and (compiled := bytecode.compiled(name, source)) is not None:
            made[importlib.util.cache_from_source(name)] = compiled
    return made


def job(
    command: Sequence[str], environment: Mapping[str, str], commands: Sequence[Sequence[str]] = ()
) -> dict[str, bytes]:
    """Return the job that runs kvmtest with the words ``command``, as the agent reads it.

    ``commands`` run before. A restored machine has the clock and the entropy that it was saved
    with, so the job brings new ones.
    """
    description = {
        "command": list(command),
        "environment": dict(environment),
        "commands": [list(words) for words in commands],
        "time": time.time(),
        "entropy": secrets.token_hex(64),
    }
    return {"job.json": json.dumps(description).encode()}


def archive(files: Files) -> bytes:
    """Return a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return buffer.getvalue()
