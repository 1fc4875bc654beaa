"""The kernel's own KTAP parser, tools/testing/kunit of a kernel's source.

It is taken from $KVMTEST_KUNIT, such folders with colons between them; else from the source of the
kernel that the lab boots.
"""

import importlib
import inspect
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from kvmtest.errors import EnvironmentUnfit
from support.kernel_source import fetched

__all__ = ["Kunit", "parsers"]

_INSIDE = "tools/testing/kunit"


class Kunit:
    """The parser in a folder tools/testing/kunit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def status(self, ktap: str) -> int:
        """Return the exit status of `kunit.py parse`."""
        with tempfile.NamedTemporaryFile("w", suffix=".ktap", encoding="utf-8") as file:
            file.write(ktap)
            file.flush()
            command = [sys.executable, "-B", str(self.folder / "kunit.py"), "parse", file.name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        assert not done.stderr
        return done.returncode

    def passes(self, ktap: str) -> bool:
        """Tell what that status tells, without a process for it (parse_tests in kunit.py)."""
        return bool(self.parse(ktap).status is self._parser.TestStatus.SUCCESS)

    def parse(self, ktap: str) -> Any:
        """Return the parser's Test: its status, subtests and counts."""
        run = self._parser.parse_run_tests
        # Some versions are told where to print, others print where stdout was as they were loaded.
        takes_printer = "printer" in inspect.signature(run).parameters
        return run(ktap.splitlines(), *([self._printer.null_printer] if takes_printer else []))

    @property
    def _parser(self) -> Any:
        return self._modules[0]

    @property
    def _printer(self) -> Any:
        return self._modules[1]

    @cached_property
    def _modules(self) -> tuple[Any, ...]:
        sys.path.insert(0, str(self.folder))
        try:
            with redirect_stdout(_Nowhere()):
                return tuple(map(importlib.import_module, ("kunit_parser", "kunit_printer")))
        finally:
            sys.path.remove(str(self.folder))
            # Another kernel's modules have the same names.
            for name in [name for name in sys.modules if name.startswith("kunit_")]:
                del sys.modules[name]


class _Nowhere(StringIO):
    def write(self, text: str) -> int:
        return len(text)


def parsers() -> list[Kunit]:
    """Return the parsers to be tried. Raises KvmtestError where there is none."""
    named = [Path(name) for name in os.environ.get("KVMTEST_KUNIT", "").split(":") if name]
    for folder in named:
        if not (folder / "kunit.py").is_file():
            raise EnvironmentUnfit(f"KVMTEST_KUNIT: there is no {folder}/kunit.py")
    return [Kunit(folder) for folder in named or [fetched("kunit", f"{_INSIDE}/*") / _INSIDE]]
