"""The machine's Python
====================

Chooses which of this host's Pythons runs kvmtest in a lab's machine.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

__all__ = ["Interpreter"]

_SYSTEM = Path("/usr/bin")
# Parts of the standard library that distributions package apart.
_ASK = """
import json, sys, sysconfig
import ctypes, lzma, tarfile, unittest
paths = sysconfig.get_paths(vars={"base": sys.base_prefix})
print(json.dumps([paths["stdlib"], sysconfig.get_config_var("EXT_SUFFIX")]))
"""
_TIMEOUT_S = 20.0


class Interpreter(NamedTuple):
    """A Python: its program, and the folder of its standard library."""

    program: Path
    stdlib: Path

    @classmethod
    def running(cls) -> "Interpreter":
        """Return the Python that runs here, outside its virtual environment."""
        program = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        return cls(program, Path(sysconfig.get_paths(vars={"base": sys.base_prefix})["stdlib"]))

    @classmethod
    def of_machine(cls, folder: Path = _SYSTEM) -> "Interpreter":
        """Return the distribution's where it loads this one's native modules, else this one.

        Distributions build theirs with profiles and link-time optimisation. A Python that was built
        without them takes an emulated machine a seventh longer.
        """
        program = folder / f"python{sys.version_info.major}.{sys.version_info.minor}"
        if not os.access(program, os.X_OK):
            return cls.running()
        command = [str(program), "-I", "-c", _ASK]
        try:
            said = subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT_S)
            stdlib, suffix = json.loads(said.stdout)
        except (OSError, subprocess.SubprocessError, ValueError, TypeError):
            return cls.running()
        if suffix != sysconfig.get_config_var("EXT_SUFFIX"):
            return cls.running()
        return cls(program.resolve(), Path(stdlib))
