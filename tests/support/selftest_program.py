"""The emulator that the self-test is tried on: Debian's Bochs, with the model preloaded."""

from collections.abc import Sequence
from pathlib import Path

from kvmtest.lab.emulators.bochs.patched import Bochs
from kvmtest.lab.emulators.bochs.selftest import Program
from kvmtest.lab.emulators.emulator import Hardware, Launch


def patched(bochs: Bochs, folder: Path, extension: Path | None = None) -> Program:
    """Return the emulator, with another extension if there is one; scripts go to ``folder``."""

    def start(arguments: Sequence[str], save: Path | None) -> Launch:
        script = folder / "script"
        steps = [f"!save {save}"] if save else []
        script.write_text("\n".join(["c", *steps, "q", ""]))
        environment = dict(bochs.environment(Hardware()))
        if extension:
            environment["LD_PRELOAD"] = str(extension)
        return Launch([str(bochs.program), "-q", *arguments, "-rc", str(script)], environment)

    return Program(bochs.variant, start)
