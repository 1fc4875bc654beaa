"""The command loads only what it needs, and so starts fast (bench/speed.py says how fast)."""

import subprocess
import sys

import pytest
from support.stand_in import environment, intel_host

from kvmtest.host.tree import Tree

HEAVY = ("pytest", "_pytest", "rich", "fastjsonschema", "psutil", "elftools", "cffi", "hypothesis")


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has after the statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing() -> None:
    more = loaded_by("import kvmtest") - loaded_by("pass")
    assert more == {"kvmtest"}


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = {name.partition(".")[0] for name in loaded_by("import kvmtest.cli")}
    assert loaded.isdisjoint(HEAVY)


def test_doctor_loads_no_pytest_and_no_fastjsonschema() -> None:
    statement = "import kvmtest.cli\nkvmtest.cli.main(['doctor', '--json', '--root', '/proc/self'])"
    loaded = {name.partition(".")[0] for name in loaded_by(f"{statement}\nprint()")}
    assert loaded.isdisjoint({"pytest", "_pytest", "fastjsonschema", "psutil"})


def test_a_run_loads_no_pytest(tmp_path_factory: pytest.TempPathFactory) -> None:
    tree = intel_host(tmp_path_factory.mktemp("host"))
    assert isinstance(tree, Tree)
    words = ["run", "--root", str(tree.root), "--only", "kernel.fix-present"]
    loaded = loaded_by(f"import kvmtest.cli\nkvmtest.cli.main({words!r})\nprint()")
    assert loaded.isdisjoint({"pytest", "_pytest", "kvmtest.plugin", "fastjsonschema"})
