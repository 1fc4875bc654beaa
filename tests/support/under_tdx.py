"""Runs a command on the stand-in TDX host."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.stand_in import PACKAGE, environment

SUPPORT = Path(__file__).parent


@dataclass(frozen=True)
class UnderTdx:
    """How a command ended, what the stand-in saw of each TD, and the host's bits at the end."""

    status: int
    out: str
    err: str
    tds: list[dict[str, Any]]
    knob: int
    bits: list[int]


def under_tdx(
    *words: object,
    folder: Path,
    faults: Sequence[str] = (),
    hardships: Sequence[str] = (),
    lack: str = "",
    timeout: float = 60,
) -> UnderTdx:
    """Run ``words`` on a stand-in TDX host with these faults, whose files go to ``folder``.

    ``lack`` is a link that the host is without.
    """
    record = folder / "record.json"
    options = [word for fault in faults for word in ("--fault", fault)]
    options += [word for hardship in hardships for word in ("--hardship", hardship)]
    options += ["--lack", lack] if lack else []
    own = [sys.executable, "-m", "support.tdx_standin", "--tree", folder / "host"]
    done = subprocess.run(
        [*map(str, own), "--record", str(record), *options, "--", *map(str, words)],
        cwd=folder,
        env=environment(PYTHONPATH=f"{PACKAGE.parent}:{SUPPORT.parent}"),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert record.exists(), done.stderr
    seen = json.loads(record.read_text())
    return UnderTdx(
        done.returncode, done.stdout, done.stderr, seen["tds"], seen["knob"], seen["bits"]
    )
