"""The part of the build that pyproject.toml can't express: native code and guests are compiled."""

import runpy
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build


class BuildGuests(Command):
    """Build guests and the lab's programs, before setuptools collects the package's files.

    This is a command of its own because an editable install only warns if build_py fails.
    """

    editable_mode = False
    build_lib = None

    def initialize_options(self) -> None:
        """Set no options: the command has none."""

    def finalize_options(self) -> None:
        """Derive no options: the command has none."""

    def run(self) -> None:
        """Build them in the source tree."""
        runpy.run_path("guests/build.py")["build"]()
        runpy.run_path("c_helpers/programs.py")["build"]()
        runpy.run_path("c_helpers/selftest/build.py")["build"]()


class Build(build):
    """The build; guests come first."""

    sub_commands: ClassVar = [("build_guests", None), *build.sub_commands]


setup(
    cffi_modules=["c_helpers/build.py:ffibuilder"],
    # The native module uses the stable ABI alone, of the oldest Python that pyproject.toml allows.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
    cmdclass={"build": Build, "build_guests": BuildGuests},
)
