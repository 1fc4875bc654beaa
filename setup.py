"""What pyproject.toml cannot say.

Native parts and guests are made at build time; and kvmtest.suite is a package whose folder is not
below kvmtest/, which no finder of packages would find.
"""

import runpy
from typing import ClassVar

from setuptools import Command, find_packages, setup
from setuptools.command.build import build


class BuildGuests(Command):
    """Make guests and the lab's programs, before the package's files are gathered.

    A command of its own: of a build_py that fails, an editable install only warns.
    """

    editable_mode = False
    build_lib = None

    def initialize_options(self) -> None:
        """Nothing can be set."""

    def finalize_options(self) -> None:
        """Nothing follows from it."""

    def run(self) -> None:
        """Make them in the source tree."""
        runpy.run_path("guests/build.py")["build"]()
        runpy.run_path("c_helpers/programs.py")["build"]()


class Build(build):
    """The build, with that first."""

    sub_commands: ClassVar = [("build_guests", None), *build.sub_commands]


setup(
    packages=[*find_packages(include=["kvmtest", "kvmtest.*"]), "kvmtest.suite"],
    package_dir={"kvmtest.suite": "tests/suite"},
    cffi_modules=["c_helpers/build.py:ffibuilder"],
    cmdclass={"build": Build, "build_guests": BuildGuests},
)
