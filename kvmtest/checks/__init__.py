"""Checks
======

A module for each family of properties: arrange, stimulate, observe, and yield readings.
"""

import importlib
from typing import cast

from kvmtest.properties import Property

from .context import Check, Context

__all__ = ["Check", "Context", "check_of"]


def check_of(prop: Property) -> Check:
    """Return the function that the property's row names."""
    module, _, function = prop.check.partition(":")
    return cast(Check, getattr(importlib.import_module(f"{__name__}.{module}"), function))
