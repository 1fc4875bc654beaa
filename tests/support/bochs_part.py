"""Parts of the emulator's extension, built apart from the emulator."""

import subprocess
from pathlib import Path

BOCHS = Path(__file__).resolve().parents[2] / "c_helpers" / "bochs"


def shared_object(path: Path, source: str) -> Path:
    """Compile C that may include the extension's files to a shared object, and return it."""
    command = ["cc", "-std=gnu11", "-fPIC", "-shared", f"-I{BOCHS}", "-o", path, "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return path
