"""Checks
======

A check is the function that observes a property. The property's id leads to the check: that of
vmx.guest.rtm-debug is ``rtm_debug`` in vmx/guest.py. Where a family is a package, each property has
a module: the check of vmx.entry.toggled-back is ``toggled_back`` in vmx/entry/toggled_back.py.
"""

import importlib
from typing import cast

from kvmtest.properties import Property

from .context import Check, Context

__all__ = ["Check", "Context", "check_of"]


def check_of(prop: Property) -> Check:
    """Return the function that observes a property; raises ImportError or AttributeError."""
    family, _, name = prop.id.replace("-", "_").rpartition(".")
    module = importlib.import_module(f"{__name__}.{family}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.{name}")
    return cast(Check, getattr(module, name))
