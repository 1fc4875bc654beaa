"""What pyproject.toml cannot say: native parts and guests are made at build time."""

import runpy

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithGuests(build_py):
    """Make guests and the lab's programs before the package's files are gathered."""

    def run(self) -> None:
        """Make them, then build."""
        runpy.run_path("guests/build.py")["build"]()
        runpy.run_path("c_helpers/programs.py")["build"]()
        super().run()


setup(cffi_modules=["c_helpers/build.py:ffibuilder"], cmdclass={"build_py": BuildWithGuests})
