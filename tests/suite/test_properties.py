"""The hardware suite: every property of kvmtest.properties, each a test that can be selected.

``pytest -m intel``, ``pytest -k vmx.entry`` and ``kvmtest run --only ID`` pick from it.
"""

from typing import Any

import pytest

from kvmtest.plugin import Decide
from kvmtest.properties import PROPERTIES, Property


def marked(prop: Property) -> Any:
    """Return the property as a parameter with its id and markers."""
    marks = [getattr(pytest.mark, marker) for marker in prop.markers]
    return pytest.param(prop, id=prop.id, marks=marks)


@pytest.mark.parametrize("prop", [marked(prop) for prop in PROPERTIES])
def test_property(prop: Property, decide: Decide) -> None:
    decide(prop)
