"""What pyproject.toml cannot say: the native module and the guests are made at build time."""

import runpy

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithGuests(build_py):
    """Assemble the guests before the package's files are gathered."""

    def run(self) -> None:
        """Do both."""
        runpy.run_path("guests/build.py")["build"]()
        super().run()


setup(cffi_modules=["c_helpers/build.py:ffibuilder"], cmdclass={"build_py": BuildWithGuests})
