"""Optional libraries
==================

Imports the libraries of kvmtest's optional dependencies where they are used.
"""

import importlib
from typing import Any

from kvmtest.errors import EnvironmentUnfit

__all__ = ["library"]

# Where the name on PyPI differs from the module's.
_PACKAGES = {"debian": "python-debian"}


def library(module: str, purpose: str, extra: str = "lab") -> Any:
    """Import ``module`` of the optional dependencies ``extra``.

    Raises EnvironmentUnfit, which names what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        package = _PACKAGES.get(top, top)
        raise EnvironmentUnfit(
            f"{purpose} needs the Python library {package} ({error}); "
            f"install it: python3 -m pip install 'kvmtest[{extra}]', or {package} alone"
        ) from None
