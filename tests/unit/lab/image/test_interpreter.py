"""lab/image/interpreter.py: which Python goes into a lab's machine."""

import json
import sys
import sysconfig
from pathlib import Path

import pytest

from kvmtest.lab.image.interpreter import Interpreter

NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def distribution(folder: Path, script: str) -> None:
    program = folder / NAME
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def answer(stdlib: str, suffix: str) -> str:
    return f"echo '{json.dumps([stdlib, suffix])}'"


def test_the_distribution_s_is_preferred(tmp_path: Path) -> None:
    distribution(tmp_path, answer("/usr/lib/python", SUFFIX))
    found = Interpreter.of_machine(tmp_path)
    assert found == Interpreter(tmp_path / NAME, Path("/usr/lib/python"))


@pytest.mark.parametrize(
    "script",
    [
        answer("/usr/lib/python", ".cpython-27-pdp11.so"),
        "exit 1",  # a part of its standard library is missing
        "echo hello",
        "echo 1",
    ],
)
def test_one_that_can_t_run_kvmtest_is_not(tmp_path: Path, script: str) -> None:
    distribution(tmp_path, script)
    assert Interpreter.of_machine(tmp_path) == Interpreter.running()


def test_without_one_it_is_the_one_that_runs(tmp_path: Path) -> None:
    assert Interpreter.of_machine(tmp_path) == Interpreter.running()


def test_the_running_one_is_no_virtual_environment_s() -> None:
    program, stdlib = Interpreter.running()
    assert program.is_file()
    assert not program.is_symlink()
    assert (stdlib / "tarfile.py").is_file()
